"""HTTP/1.1 for the API: keep-alive, chunked streams, and the faults struck into them."""

from __future__ import annotations

import select
import socket
import struct
import time
import traceback
from collections.abc import Iterable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any, NamedTuple

from tests.apiserver.errors import ApiError
from tests.apiserver.faults import Fault
from tests.apiserver.messages import Reply, Request, Stream, json_reply
from tests.apiserver.watch import error_line

if TYPE_CHECKING:
    from tests.apiserver.server import ApiServer

_NO_FAULT = Fault()


class Exchange(NamedTuple):
    """One request and how it was answered; code 0 stands for a reset connection."""

    method: str
    target: str
    code: int


class ConnectionCut(Exception):  # noqa: N818 - not an error: this is what was asked for
    """A fault says that the connection breaks here."""


class Handler(BaseHTTPRequestHandler):
    """Serves one connection; `api_server` is set by the subclass its server makes."""

    api_server: ApiServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 1 << 16

    def do_GET(self) -> None:
        """Answers one request; every method comes here."""
        length = int(self.headers.get("Content-Length") or 0)
        headers = {name.title(): value for name, value in self.headers.items()}
        request = Request.of_target(self.command, self.path, headers, self.rfile.read(length))
        fault = self.api_server.faults.pick(self.api_server.api.verb(request), self.path)
        self._is_recorded = False
        try:
            self._answer(request, fault or _NO_FAULT)
        except ConnectionCut:
            self._reset()
        except OSError:  # the client went away
            self.close_connection = True

    do_POST = do_PUT = do_PATCH = do_DELETE = do_GET  # noqa: N815

    def _answer(self, request: Request, fault: Fault) -> None:
        time.sleep(fault.delay)
        if fault.reset:
            raise ConnectionCut
        try:
            answer = self._struck(request, fault) or self.api_server.api.handle(request)
        except ApiError as error:
            answer = json_reply(error.code, error.status)
        except Exception:  # a bug of this server: the test that meets it should see both
            traceback.print_exc()
            answer = json_reply(500, ApiError(500, traceback.format_exc()).status)
        if fault.lose_answer:
            raise ConnectionCut
        if isinstance(answer, Stream):
            self._send_stream(answer, fault)
        else:
            self._send_reply(answer, fault)

    def _struck(self, request: Request, fault: Fault) -> Reply | Stream | None:
        """Returns the answer a fault gives in place of the true one, if it gives one."""
        if fault.status is None:
            return None
        error = ApiError(fault.status, f"injected fault: {fault.status}")
        if fault.status == 410 and self.api_server.api.verb(request) == "watch":
            return Stream(iter([error_line(error)]))
        return json_reply(error.code, error.status)

    def _send_reply(self, reply: Reply, fault: Fault) -> None:
        self._record(reply.code)
        self.send_response(reply.code)
        for warning in reply.warnings:
            text = warning.replace("\\", "\\\\").replace('"', '\\"')
            self.send_header("Warning", f'299 - "{text}"')
        if fault.retry_after is not None:
            self.send_header("Retry-After", str(fault.retry_after))
        if reply.code != 204:
            self.send_header("Content-Type", reply.content_type)
            self.send_header("Content-Length", str(len(reply.body)))
        self.end_headers()
        for chunk in _cut([reply.body], fault.cut_after):
            self.wfile.write(chunk)
        self.wfile.flush()

    def _send_stream(self, stream: Stream, fault: Fault) -> None:
        """Sends chunks as they come, each at once, until the stream or the client ends."""
        self._record(200)
        self.send_response(200)
        self.send_header("Content-Type", stream.content_type)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.flush()
        for chunk in _cut(_end(stream.chunks, fault.end_after), fault.cut_after):
            time.sleep(fault.chunk_delay)
            if chunk:
                self.wfile.write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
                self.wfile.flush()
            elif self._client_is_gone():
                self.close_connection = True
                return
        self.wfile.write(b"0\r\n\r\n")
        self.wfile.flush()

    def _client_is_gone(self) -> bool:
        """Whether the client has closed its side; it sends nothing while it reads a stream."""
        poller = select.poll()
        poller.register(self.connection, select.POLLIN)
        return bool(poller.poll(0))

    def _reset(self) -> None:
        """Ends the connection with a TCP reset after what was already sent."""
        if not self._is_recorded:
            self._record(0)
        self.close_connection = True
        with suppress(OSError):
            self.wfile.flush()
        linger = struct.pack("ii", 1, 0)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.connection.close()

    def _record(self, code: int) -> None:
        self._is_recorded = True
        self.api_server.exchanges.append(Exchange(self.command, self.path, code))

    def log_message(self, format: str, *args: Any) -> None:
        """Prints nothing: tests read `ApiServer.exchanges`."""


def _cut(chunks: Iterable[bytes], limit: int | None) -> Iterator[bytes]:
    """Passes chunks on and breaks the connection after `limit` bytes."""
    for chunk in chunks:
        if limit is not None and len(chunk) > limit:
            yield chunk[:limit]
            raise ConnectionCut
        yield chunk
        if limit is not None:
            limit -= len(chunk)


def _end(chunks: Iterable[bytes], limit: int | None) -> Iterator[bytes]:
    """Passes chunks on and ends after `limit` bytes."""
    with suppress(ConnectionCut):
        yield from _cut(chunks, limit)
