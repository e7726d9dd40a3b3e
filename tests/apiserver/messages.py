"""What goes in and out of the API: requests, replies and streams, free of sockets."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

from tests.apiserver.errors import ApiError, Object


class Request(NamedTuple):
    """One HTTP request; the values of `query` are the last ones given for their key."""

    method: str
    path: str
    query: dict[str, str]
    headers: Mapping[str, str]
    body: bytes = b""

    @classmethod
    def of_target(
        cls, method: str, target: str, headers: Mapping[str, str], body: bytes
    ) -> Request:
        """Takes the target of a request line apart."""
        url = urlsplit(target)
        query = dict(parse_qsl(url.query, keep_blank_values=True))
        return cls(method, unquote(url.path), query, headers, body)

    @property
    def dry_run(self) -> bool:
        """Whether nothing may be stored."""
        return self.query.get("dryRun") == "All"

    def number(self, name: str) -> int | None:
        """Returns a parameter of the query as a number, None without it; ApiError 400."""
        text = self.query.get(name)
        if text and not text.isdecimal():
            raise ApiError(400, f"{name}: Invalid value: {text!r}: not a number")
        return int(text) if text else None

    def flag(self, name: str) -> bool:
        """Tells whether a parameter of the query is true."""
        return self.query.get(name, "").lower() in ("1", "t", "true")

    def json(self) -> Object:
        """Returns the body, an empty object without one; ApiError 400 or 415."""
        if not self.body:
            return {}
        content_type = self.headers.get("Content-Type", "application/json").partition(";")[0]
        if content_type != "application/json":
            raise ApiError(415, f"the body's format {content_type} is unknown to this server")
        try:
            body = json.loads(self.body)
        except ValueError as error:
            raise ApiError(400, f"the body is not JSON: {error}") from error
        if not isinstance(body, dict):
            raise ApiError(400, "the body is not a JSON object")
        return body


class Reply(NamedTuple):
    """A complete answer."""

    code: int
    body: bytes
    warnings: tuple[str, ...] = ()
    content_type: str = "application/json"


def json_reply(code: int, body: Object) -> Reply:
    """Returns a reply with compact JSON."""
    return Reply(code, json.dumps(body, separators=(",", ":")).encode())


class Stream(NamedTuple):
    """An answer that goes on; empty chunks are only for the transport to look up."""

    chunks: Iterator[bytes]
    content_type: str = "application/json"
