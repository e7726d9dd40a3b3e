"""The server: listens on a free loopback port, in threads of this process."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Callable
from http.server import ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread
from typing import Any

from tests.apiserver.access import Access
from tests.apiserver.api import Admission, Api
from tests.apiserver.faults import Faults
from tests.apiserver.handler import Exchange, Handler
from tests.apiserver.logs import LogBook
from tests.apiserver.resources import RESOURCES
from tests.apiserver.store import Store

_EXCHANGES_KEPT = 100_000


class _HttpServer(ThreadingHTTPServer):
    """Knows its open connections, so that it can end them when it stops."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 512

    def __init__(self, handler: type[Handler], port: int) -> None:
        self._lock = Lock()
        self._connections: set[socket.socket] = set()
        super().__init__(("127.0.0.1", port), handler)

    def get_request(self) -> tuple[Any, Any]:
        connection, address = super().get_request()
        with self._lock:
            self._connections.add(connection)
        return connection, address

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Keeps quiet about clients that went away; anything else is a bug to be seen."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)

    def close_connections(self) -> None:
        """Ends every open connection."""
        with self._lock:
            connections = list(self._connections)
        for connection in connections:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue


class ApiServer:
    """A Kubernetes API server for tests; a context manager, it listens while entered."""

    def __init__(
        self,
        *,
        access: Access | None = None,
        without_groups: tuple[str, ...] = (),
        tls: bool = False,
        port: int = 0,
        seed: int = 0,
    ) -> None:
        """`without_groups`: API groups a cluster lacks whose operator is not installed."""
        self.store = Store()
        self.logs = LogBook()
        self.store.subscribe(self.logs.on_change)
        self.access = access or Access()
        self.faults = Faults(seed=seed)
        self.exchanges: deque[Exchange] = deque(maxlen=_EXCHANGES_KEPT)
        resources = tuple(item for item in RESOURCES if item.group not in without_groups)
        for resource in RESOURCES:
            if resource.group in without_groups:
                self.store.delete("CustomResourceDefinition", resource.qualified)
        self.api = Api(self.store, resources=resources, logs=self.logs, access=self.access)
        handler = type("BoundHandler", (Handler,), {"api_server": self})
        self._http = _HttpServer(handler, port)
        self._tls_folder = tempfile.TemporaryDirectory(prefix="apiserver-tls-") if tls else None
        self.certificate = self._use_tls(Path(self._tls_folder.name)) if self._tls_folder else None
        self._thread = Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> ApiServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stops listening and ends every stream and connection."""
        self.api.closing.set()
        self._http.shutdown()
        self._http.server_close()
        self._http.close_connections()
        self._thread.join()
        if self._tls_folder:
            self._tls_folder.cleanup()

    @property
    def url(self) -> str:
        """Where the server listens."""
        scheme = "https" if self.certificate else "http"
        return f"{scheme}://127.0.0.1:{self._http.server_port}"

    def admit(self, admission: Admission) -> Callable[[], None]:
        """Shows every object to `admission` before it is stored; call the result to end that."""
        self.api.admission.append(admission)
        return lambda: self.api.admission.remove(admission)

    def write_kubeconfig(self, path: Path, *, namespace: str = "default") -> Path:
        """Writes a kubeconfig that leads here, with the token of `access`, and returns its path."""
        cluster: dict[str, Any] = {"server": self.url}
        if self.certificate:
            cluster["certificate-authority"] = str(self.certificate)
        user = {"token": self.access.token} if self.access.token else {}
        context = {"cluster": "test", "user": "tester", "namespace": namespace}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": "tester", "user": user}],
            "contexts": [{"name": "test", "context": context}],
        }
        path.write_text(json.dumps(config))
        return path

    def _use_tls(self, folder: Path) -> Path:
        """Makes a certificate for 127.0.0.1 and has the listening socket use it."""
        certificate, key = folder / "ca.crt", folder / "key.pem"
        kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
        subject = ["-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1"]
        files = ["-keyout", str(key), "-out", str(certificate)]
        command = ["openssl", "req", "-x509", *kind, *subject, *files]
        subprocess.run(command, check=True, capture_output=True)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        self._http.socket = context.wrap_socket(
            self._http.socket, server_side=True, do_handshake_on_connect=False
        )
        return certificate
