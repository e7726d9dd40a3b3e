"""A store that is away for a while neither blocks training nor loses a metric."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric

from florence.tracking import writer
from florence.tracking.store import connect
from florence.tracking.writer import RunWriter
from florence.util.errors import InfrastructureError


class Server(HTTPServer):
    """Answers MLflow's log-batch requests, or 503 while it is `away`."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.away = False
        self.steps: list[int] = []

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self.server.away:
            self.server.steps += [metric["step"] for metric in body["metrics"]]
        self.send_response(503 if self.server.away else 200)
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(writer, "_RETRY_SECONDS", 0.05)
    with Server() as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield server
        server.shutdown()


def metrics(*steps: int) -> list[Metric]:
    return [Metric("train/loss", 1.0, 0, step) for step in steps]


def test_metrics_of_an_outage_arrive_after_it_in_order(server: Server) -> None:
    writing = RunWriter(MlflowClient(server.uri), run_id="a")
    writing.put(metrics(1, 2))
    writing.flush()
    server.away = True
    began = time.monotonic()
    for step in range(3, 3000):
        writing.put(metrics(step))
    assert time.monotonic() - began < 1
    time.sleep(0.2)
    assert server.steps == [1, 2]
    server.away = False
    time.sleep(0.3)
    writing.close()
    assert server.steps == list(range(1, 3000))


def test_flush_reports_what_cannot_be_written(server: Server) -> None:
    writing = RunWriter(MlflowClient(server.uri), run_id="a")
    server.away = True
    writing.put(metrics(1))
    with pytest.raises(InfrastructureError, match=server.uri):
        writing.close()


def test_an_address_without_a_store_is_reported_within_seconds(server: Server) -> None:
    connect_began = time.monotonic()
    server.server_close()
    with pytest.raises(InfrastructureError, match=r"tracking\.uri.*does not answer"):
        connect(server.uri)
    assert time.monotonic() - connect_began < 5
