"""Pod logs through the Python client: tail, since, previous, follow, slow and broken streams."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime

import pytest
from kubernetes import watch
from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import HTTPError

from tests.apiserver import Fault
from tests.apiserver.kubelet import Kubelet, Life, cannot_pull, runs, stays_pending


@pytest.fixture
def start_pod(server, core, make_pod, eventually):
    """Creates a pod that lives by a script; returns when its phase is what is asked for."""
    kubelets = []

    def start(name, script, *, phase, pod=None):
        kubelets.append(Kubelet(server, script).__enter__())
        core.create_namespaced_pod("default", pod or make_pod(name))
        eventually(lambda: server.store.get("Pod", name)["status"]["phase"] == phase)

    yield start
    for kubelet in kubelets:
        kubelet.__exit__()


def test_tail_limit_and_timestamps(core, start_pod, eventually):
    start_pod("a", runs(b"one\n", b"two\n", b"three"), phase="Running")
    eventually(lambda: core.read_namespaced_pod_log("a", "default") == "one\ntwo\nthree")
    assert core.read_namespaced_pod_log("a", "default", tail_lines=2) == "two\nthree"
    assert core.read_namespaced_pod_log("a", "default", tail_lines=0) == ""
    assert core.read_namespaced_pod_log("a", "default", limit_bytes=5) == "one\nt"
    stamped = core.read_namespaced_pod_log("a", "default", timestamps=True, tail_lines=1)
    time_, _, text = stamped.partition(" ")
    assert text == "three"
    assert abs((datetime.now(UTC) - datetime.fromisoformat(time_)).total_seconds()) < 60


def test_since(core, start_pod):
    def script(life: Life) -> None:
        life.schedule()
        life.start()
        life.log([b"early\n"])
        life.sleep(0.2)
        life.log([b"late\n"])
        life.sleep(60)

    start_pod("a", script, phase="Running")
    while b"late" not in core.read_namespaced_pod_log("a", "default").encode():
        time.sleep(0.02)
    stamped = core.read_namespaced_pod_log("a", "default", timestamps=True).splitlines()
    late = stamped[1].partition(" ")[0]
    answer = core.api_client.call_api(
        "/api/v1/namespaces/default/pods/a/log",
        "GET",
        query_params=[("sinceTime", late)],
        _preload_content=False,
    )[0]
    assert answer.data == b"late\n"
    assert core.read_namespaced_pod_log("a", "default", since_seconds=60) == "early\nlate\n"


def test_previous_is_the_run_before_the_last(core, start_pod):
    def script(life: Life) -> None:
        life.schedule()
        for attempt in range(2):
            life.start()
            life.log([f"attempt {attempt}\n".encode()])
            life.end(1 if attempt == 0 else 0)

    pod = {
        "metadata": {"name": "a"},
        "spec": {
            "restartPolicy": "OnFailure",
            "containers": [{"name": "pytorch", "image": "image"}],
        },
    }
    start_pod("a", script, phase="Succeeded", pod=pod)
    assert core.read_namespaced_pod_log("a", "default") == "attempt 1\n"
    assert core.read_namespaced_pod_log("a", "default", previous=True) == "attempt 0\n"
    status = core.read_namespaced_pod("a", "default").status.container_statuses[0]
    assert status.restart_count == 1
    assert status.last_state.terminated.exit_code == 1


def test_there_is_no_previous_run(core, start_pod):
    start_pod("a", runs(seconds=60), phase="Running")
    with pytest.raises(ApiException) as error:
        core.read_namespaced_pod_log("a", "default", previous=True)
    assert error.value.status == 400
    assert "previous terminated container" in error.value.body


def test_a_pod_that_waits_has_no_log(core, start_pod, eventually):
    start_pod("no-image", cannot_pull(), phase="Pending")
    eventually(lambda: core.read_namespaced_pod("no-image", "default").status.container_statuses)
    with pytest.raises(ApiException) as error:
        core.read_namespaced_pod_log("no-image", "default", follow=True)
    assert error.value.status == 400
    assert "is waiting to start: ImagePullBackOff" in error.value.body


def test_a_pod_on_no_node_has_an_empty_log(core, start_pod):
    start_pod("no-node", stays_pending(), phase="Pending")
    assert core.read_namespaced_pod_log("no-node", "default", follow=True) == ""


def test_the_container_must_be_named_when_there_are_two(core, make_pod, start_pod, eventually):
    pod = make_pod("a", containers=("pytorch", "sidecar"))
    start_pod("a", runs(b"hello\n", seconds=60), phase="Running", pod=pod)
    # A pod is Running a moment before it has printed anything.
    eventually(lambda: core.read_namespaced_pod_log("a", "default", container="pytorch"))
    assert core.read_namespaced_pod_log("a", "default", container="pytorch") == "hello\n"
    for options in ({}, {"container": "other"}):
        with pytest.raises(ApiException) as error:
            core.read_namespaced_pod_log("a", "default", **options)
        assert error.value.status == 400


def test_follow_brings_lines_as_they_come_and_ends_with_the_container(core, start_pod):
    go_on = threading.Event()

    def script(life: Life) -> None:
        life.schedule()
        life.start()
        life.log([b"first\n"])
        go_on.wait(20)
        life.log([b"second\n", b"last"])
        life.end(0)

    start_pod("a", script, phase="Running")
    answer = core.read_namespaced_pod_log("a", "default", follow=True, _preload_content=False)
    chunks = answer.stream()
    assert next(chunks) == b"first\n"
    go_on.set()
    assert b"".join(chunks) == b"second\nlast"


def test_follow_ends_when_the_pod_is_deleted(core, start_pod):
    start_pod("a", runs(b"hello\n", seconds=60), phase="Running")
    delete = threading.Timer(0.3, core.delete_namespaced_pod, ("a", "default"))
    delete.start()
    stream = watch.Watch().stream(
        core.read_namespaced_pod_log, name="a", namespace="default", follow=True
    )
    assert list(stream) == ["hello"]
    delete.join()


def test_a_slow_and_a_broken_stream(core, server, start_pod):
    start_pod("a", runs(b"12345\n" * 3, seconds=60), phase="Running")
    server.faults.add(Fault(path="/log.*follow", cut_after=8, chunk_delay=0.3, times=1))
    begin = time.monotonic()
    answer = core.read_namespaced_pod_log("a", "default", follow=True, _preload_content=False)
    chunks = answer.stream()
    assert next(chunks) == b"12345\n12"
    with pytest.raises((HTTPError, ConnectionError)):
        next(chunks)
    assert time.monotonic() - begin >= 0.3


def test_64_follows_lose_nothing_at_full_speed(client, server, make_pod, eventually):
    lines = 300

    def script(life: Life) -> None:
        life.schedule()
        life.start()
        for start in range(0, lines, 10):
            life.log(f"{life.name} {n}\n".encode() for n in range(start, start + 10))
            life.sleep(0.02)
        life.end(0)

    names = [f"pod-{index}" for index in range(64)]
    received: dict[str, bytes] = {}

    def follow(name: str) -> None:
        url = f"/api/v1/namespaces/default/pods/{name}/log?follow=true"
        received[name] = client.call_api(url, "GET", _preload_content=False)[0].data

    client.rest_client.pool_manager.connection_pool_kw["maxsize"] = 64
    with Kubelet(server, script):
        for name in names:
            server.store.create(make_pod(name))
        eventually(lambda: all(p["status"]["phase"] != "Pending" for p in server.store.all("Pod")))
        begin = time.monotonic()
        threads = [threading.Thread(target=follow, args=(name,)) for name in names]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seconds = time.monotonic() - begin
    for name in names:
        assert received[name].decode().splitlines() == [f"{name} {n}" for n in range(lines)]
    assert seconds < 15, f"{64 * lines / seconds:.0f} lines/s"
