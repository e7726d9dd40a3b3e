"""Following logs: pods that are many, end badly, are deleted, or whose streams break off."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from florence.launch.kubernetes import KubernetesBackend
from florence.launch.manifest import JobManifest
from tests.apiserver import ApiServer, Fault
from tests.apiserver.controller import Controller
from tests.apiserver.kubelet import Kubelet, Life


@pytest.fixture
def server() -> Iterator[ApiServer]:
    with ApiServer() as server, Controller(server):
        yield server


@pytest.fixture
def backend(server: ApiServer, tmp_path: Path) -> KubernetesBackend:
    kubeconfig = server.write_kubeconfig(tmp_path / "kubeconfig")
    return KubernetesBackend("default", kubeconfig=kubeconfig, poll_seconds=0.05)


def manifest(*, workers: int = 1, restart: str = "ExitCode") -> JobManifest:
    template = {"spec": {"containers": [{"name": "pytorch", "image": "image"}]}}
    counts = {"Master": 1} | ({"Worker": workers} if workers else {})
    job = {
        "apiVersion": "kubeflow.org/v1",
        "kind": "PyTorchJob",
        "metadata": {"name": "demo"},
        "spec": {
            "runPolicy": {"cleanPodPolicy": "Running"},
            "pytorchReplicaSpecs": {
                kind: {"replicas": count, "restartPolicy": restart, "template": template}
                for kind, count in counts.items()
            },
        },
    }
    return JobManifest(job, ())


def test_64_pods_in_order(server: ApiServer, backend: KubernetesBackend) -> None:
    lines, workers_left = 100, threading.Semaphore(0)

    def script(life: Life) -> None:
        life.schedule()
        life.start()
        for start in range(0, lines, 10):
            life.log(f"{life.name} {n}\n".encode() for n in range(start, start + 10))
            life.sleep(0.05)
        if "worker" in life.name:
            workers_left.release()
        else:
            for _ in range(63):
                workers_left.acquire(timeout=20)
        life.end(0)

    server.faults.add(Fault(path=r"/log\?.*follow", rate=0.5, cut_after=500))
    with Kubelet(server, script):
        backend.submit(manifest(workers=63))
        found = defaultdict(list)
        for pod, line in backend.logs("demo", follow=True):
            found[pod].append(line)
    assert len(found) == 64
    for pod, seen in found.items():
        assert seen == [f"{pod} {n}" for n in range(lines)]


def test_an_evicted_pod_is_followed_to_its_end_and_then_its_successor(
    server: ApiServer, backend: KubernetesBackend
) -> None:
    def script(life: Life) -> None:
        life.schedule()
        life.start()
        life.log([f"attempt {life.attempt}\n".encode()])
        life.sleep(0.3)
        if life.attempt == 0:
            life.log([b"saving\n"])
            return life.evict("The node was low on resource: memory.")
        life.end(0)
        return None

    with Kubelet(server, script):
        backend.submit(manifest(workers=0))
        lines = [line for _, line in backend.logs("demo", follow=True)]
    assert lines == ["attempt 0", "saving", "attempt 1"]


def test_deleting_a_job_ends_its_followers_after_the_last_words(
    server: ApiServer, backend: KubernetesBackend
) -> None:
    def script(life: Life) -> None:
        life.schedule()
        life.start()
        life.log([b"up\n"])
        life.deleted.wait()
        life.log([b"saved\n"])
        time.sleep(0.2)

    with Kubelet(server, script):
        backend.submit(manifest())
        follower = backend.logs("demo", follow=True)
        assert next(follower).line == "up"
        threading.Thread(target=backend.delete, args=("demo",)).start()
        assert sorted(line for _, line in follower) == ["saved", "saved", "up"]


def test_tail_goes_on_where_it_began_over_a_lost_connection(
    server: ApiServer, backend: KubernetesBackend
) -> None:
    go_on = threading.Event()

    def script(life: Life) -> None:
        life.schedule()
        life.start()
        life.log(f"old {n}\n".encode() for n in range(20))
        go_on.wait(10)
        life.log(f"new {n}\n".encode() for n in range(20))
        life.end(0)

    with Kubelet(server, script):
        backend.submit(manifest(workers=0))
        while len(list(backend.logs("demo"))) < 20:
            time.sleep(0.02)
        server.faults.add(Fault(path=r"/log\?.*follow", cut_after=90, times=3))
        follower = backend.logs("demo", follow=True, tail=2)
        assert [next(follower).line, next(follower).line] == ["old 18", "old 19"]
        go_on.set()
        assert [line for _, line in follower] == [f"new {n}" for n in range(20)]


def test_a_follower_that_leaves_stops_asking(server: ApiServer, backend: KubernetesBackend) -> None:
    def script(life: Life) -> None:
        life.schedule()
        life.start()
        while True:
            life.log([b"tick\n"])
            life.sleep(0.01)

    with Kubelet(server, script):
        backend.submit(manifest())
        follower = backend.logs("demo", follow=True)
        next(follower)
        follower.close()  # type: ignore[attr-defined]
        time.sleep(0.5)
        asked = len(server.exchanges)
        time.sleep(0.5)
        assert len(server.exchanges) == asked


def test_a_fault_of_the_cluster_reaches_the_reader(
    server: ApiServer, backend: KubernetesBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("florence.launch.kubernetes.OUTAGE", 0.2)
    backend.submit(manifest())
    follower = backend.logs("demo", follow=True)
    server.faults.add(Fault(status=503))
    with pytest.raises(Exception, match="does not"):
        list(follower)
