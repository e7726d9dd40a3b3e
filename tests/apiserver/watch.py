"""Watches: the changes of one kind from a revision on, as a stream of JSON lines."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from threading import Event

from tests.apiserver.errors import ApiError, Object
from tests.apiserver.resources import Resource
from tests.apiserver.selectors import Predicate
from tests.apiserver.store import Change, Entry, Store

POLL_SECONDS = 0.5
BOOKMARK_SECONDS = 5.0

Encoder = Callable[[Entry], bytes]
"""Turns a version of an object into JSON: as it is, or as a table."""


@dataclass(frozen=True)
class Watch:
    """The query of a watch; without `since` it begins with all there is."""

    resource: Resource
    namespace: str | None
    matches: Predicate
    since: int | None = None
    timeout: int | None = None
    bookmarks: bool = False


def watch(store: Store, query: Watch, encode: Encoder, closing: Event) -> Iterator[bytes]:
    """Yields one line per event; an empty chunk says that there is nothing new."""
    kind = query.resource.kind
    deadline = time.monotonic() + (query.timeout if query.timeout is not None else 1e9)
    since = query.since
    if since is None:
        snapshot = store.snapshot(kind, query.namespace)
        since = snapshot.revision
        for entry in snapshot.entries:
            if query.matches(entry.obj):
                yield _line("ADDED", encode(entry))
    next_bookmark = time.monotonic() + BOOKMARK_SECONDS
    while not closing.is_set() and (left := deadline - time.monotonic()) > 0:
        try:
            since, changes = store.changes(kind, since, timeout=min(POLL_SECONDS, left))
        except ApiError as error:
            yield error_line(error)
            return
        for change in changes:
            if line := _visible(query, change, encode):
                yield line
        if query.bookmarks and time.monotonic() > next_bookmark:
            yield _bookmark(query.resource, since)
            next_bookmark += BOOKMARK_SECONDS
        elif not changes:
            yield b""
    if query.bookmarks and not closing.is_set():
        yield _bookmark(query.resource, since)


def _visible(query: Watch, change: Change, encode: Encoder) -> bytes | None:
    """An object that begins to match a selector is ADDED, one that ceases to is DELETED."""
    obj, previous = change.entry.obj, change.previous
    if query.namespace is not None and obj["metadata"].get("namespace") != query.namespace:
        return None
    was = previous is not None and query.matches(previous.obj)
    is_now = change.type != "DELETED" and query.matches(obj)
    if not was and not is_now:
        return None
    type = "MODIFIED" if was and is_now else "ADDED" if is_now else "DELETED"
    return _line(type, encode(change.entry))


def _line(type: str, raw: bytes) -> bytes:
    return b'{"type":"' + type.encode() + b'","object":' + raw + b"}\n"


def _bookmark(resource: Resource, revision: int) -> bytes:
    obj: Object = {
        "kind": resource.kind,
        "apiVersion": resource.api_version,
        "metadata": {"resourceVersion": str(revision), "creationTimestamp": None},
    }
    return _line("BOOKMARK", json.dumps(obj).encode())


def error_line(error: ApiError) -> bytes:
    """Returns the event a watch ends with when it cannot go on."""
    return _line("ERROR", json.dumps(error.status).encode())
