"""The server is no bottleneck: 1,000 jobs with 8,000 pods, and 64 watchers."""

from __future__ import annotations

import http.client
import json
import threading
import time

from tests.apiserver import ApiServer

PODS, PAGE, WATCHERS = 8000, 500, 64


def fill(server: ApiServer, make_pod) -> None:
    for index in range(PODS):
        server.store.create(make_pod(f"pod-{index:04}", **{"job-name": f"job-{index // 8}"}))


def test_8000_pods_in_pages_of_500(server, make_pod):
    fill(server, make_pod)
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"))
    begin, names, token = time.monotonic(), [], ""
    while True:
        path = f"/api/v1/namespaces/default/pods?limit={PAGE}&continue={token}"
        connection.request("GET", path)
        page = json.loads(connection.getresponse().read())
        names += [pod["metadata"]["name"] for pod in page["items"]]
        token = page["metadata"].get("continue")
        if not token:
            break
    seconds = time.monotonic() - begin
    assert names == [f"pod-{index:04}" for index in range(PODS)]
    assert seconds < 1.5, f"{seconds:.2f} s"


def test_one_job_of_1000(server, make_pod):
    fill(server, make_pod)
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"))
    begin = time.monotonic()
    for index in range(20):
        path = f"/api/v1/namespaces/default/pods?labelSelector=job-name%3Djob-{index}"
        connection.request("GET", path)
        assert len(json.loads(connection.getresponse().read())["items"]) == 8
    seconds = (time.monotonic() - begin) / 20
    assert seconds < 0.1, f"{seconds:.3f} s"


def test_64_watchers_see_every_change(server, make_pod):
    changes = 100
    seen = [0] * WATCHERS

    def follow(index: int) -> None:
        connection = http.client.HTTPConnection(server.url.removeprefix("http://"))
        connection.request("GET", "/api/v1/pods?watch=true")
        answer = connection.getresponse()
        while seen[index] < changes and (line := answer.readline()):
            seen[index] += line.startswith(b'{"type":"ADDED"')

    threads = [
        threading.Thread(target=follow, args=(index,), daemon=True) for index in range(WATCHERS)
    ]
    for thread in threads:
        thread.start()
    for index in range(changes):
        server.store.create(make_pod(f"pod-{index}"))
    for thread in threads:
        thread.join(10)
    assert seen == [changes] * WATCHERS
