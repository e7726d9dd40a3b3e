"""The Kubernetes backend's verbs, against the test API server over HTTP.

A little over 400 lines, because every verb is tried with the same server, manifest and helpers.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from kubeflow.training import TrainingClient

from florence.launch.backend import LogLine
from florence.launch.kubernetes import KubernetesBackend
from florence.launch.kubernetes_client import Cluster
from florence.launch.kubernetes_resources import JOBS
from florence.launch.manifest import JobManifest, apply_defaults
from florence.launch.operator import created_status
from florence.launch.pods import pod_manifest, pod_name
from florence.launch.status import QUEUE_LABEL, JobState
from florence.util.errors import InfrastructureError, UserError
from tests.apiserver import Access, ApiServer, Fault, Rule
from tests.apiserver.controller import Controller
from tests.apiserver.errors import ApiError
from tests.apiserver.kubelet import Kubelet, Life, cannot_pull, runs, stays_pending
from tests.apiserver.kueue import Kueue

POLL = 0.05


@pytest.fixture
def server() -> Iterator[ApiServer]:
    with ApiServer() as server, Controller(server):
        yield server


@pytest.fixture
def backend(server: ApiServer, tmp_path: Path) -> KubernetesBackend:
    return connect(server, tmp_path)


def connect(server: ApiServer, folder: Path) -> KubernetesBackend:
    kubeconfig = server.write_kubeconfig(folder / "kubeconfig")
    return KubernetesBackend("default", kubeconfig=kubeconfig, poll_seconds=POLL)


def manifest(
    name: str = "demo",
    *,
    workers: int = 1,
    restart: str = "ExitCode",
    labels: dict[str, str] | None = None,
    **policy: Any,
) -> JobManifest:
    container = {
        "name": "pytorch",
        "image": "image",
        "command": ["true"],
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }
    counts = {"Master": 1, "Worker": workers}
    metadata = {"name": name, "labels": {"app.kubernetes.io/name": "florence", **(labels or {})}}
    job = {
        "apiVersion": "kubeflow.org/v1",
        "kind": "PyTorchJob",
        "metadata": metadata,
        "spec": {
            "runPolicy": {"cleanPodPolicy": "Running"} | policy,
            "pytorchReplicaSpecs": {
                kind: {
                    "replicas": count,
                    "restartPolicy": restart,
                    "template": {"spec": {"containers": [container]}},
                }
                for kind, count in counts.items()
                if count
            },
        },
    }
    config_map = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name},
        "data": {"run.yaml": "name: demo\n"},
    }
    return JobManifest(job, (config_map,))


def until(holds: Callable[[], object], *, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it does not come true"
        time.sleep(0.02)


def message(backend: KubernetesBackend, name: str = "demo") -> str:
    return backend.status(name).message


def test_submit_runs_and_is_idempotent(server: ApiServer, backend: KubernetesBackend) -> None:
    with Kubelet(server, runs(b"hello\n", seconds=0.3)):
        assert backend.submit(manifest()).outcome == "started"
        assert backend.submit(manifest()).outcome == "live"
        assert backend.wait("demo", timeout=10).state is JobState.SUCCEEDED
        assert backend.submit(manifest()).outcome == "done"
        uid = server.store.get("PyTorchJob", "demo")["metadata"]["uid"]
        assert backend.submit(manifest(), rerun=True).outcome == "started"
        job = server.store.get("PyTorchJob", "demo")
        assert job["metadata"]["uid"] != uid
        owners = server.store.get("ConfigMap", "demo")["metadata"]["ownerReferences"]
        assert [owner["uid"] for owner in owners] == [job["metadata"]["uid"]]


def test_a_failed_job_is_made_anew(server: ApiServer, backend: KubernetesBackend) -> None:
    def script(life: Life) -> None:
        code = 2 if life.attempt == 0 else 0
        runs(b"error: lr = -1; allowed: > 0\n", exit_codes=[code], seconds=0.1)(life)

    with Kubelet(server, script):
        backend.submit(manifest(workers=0))
        status = backend.wait("demo", timeout=10)
        assert (status.state, status.message) == (JobState.FAILED, "lr = -1; allowed: > 0")
        assert backend.submit(manifest(workers=0)).outcome == "resumed"
        assert backend.wait("demo", timeout=10).state is JobState.SUCCEEDED


def test_two_submits_at_once_make_one_job(server: ApiServer, backend: KubernetesBackend) -> None:
    outcomes: list[str] = []
    threads = [
        threading.Thread(target=lambda: outcomes.append(backend.submit(manifest()).outcome))
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["live"] * 5 + ["started"]
    (config_map,) = server.store.all("ConfigMap")
    job = server.store.get("PyTorchJob", "demo")
    owners = [owner["uid"] for owner in config_map["metadata"]["ownerReferences"]]
    assert owners == [job["metadata"]["uid"]]


def test_a_lost_answer_does_not_hide_who_started(
    server: ApiServer, backend: KubernetesBackend
) -> None:
    server.faults.add(Fault(verb="create", path="pytorchjobs", lose_answer=True, times=1))
    assert backend.submit(manifest()).outcome == "started"


def test_what_kubeflows_own_client_expects(
    server: ApiServer, backend: KubernetesBackend, tmp_path: Path
) -> None:
    demo = manifest()
    del demo.job["spec"]["runPolicy"]
    backend.submit(demo)
    client = TrainingClient(config_file=str(tmp_path / "kubeconfig"), namespace="default")
    assert client.get_job("demo").spec.pytorch_replica_specs["Worker"].replicas == 1
    client.delete_job("demo")
    until(lambda: not server.store.all("ConfigMap"))


def test_the_server_checks_fields_strictly(backend: KubernetesBackend) -> None:
    demo = manifest()
    demo.job["spec"]["runPolicy"]["cleanPods"] = "All"
    with pytest.raises(UserError, match=r"unknown field .*cleanPods.*correct the manifest"):
        backend.submit(demo)
    demo.job["metadata"]["namespace"] = "other"
    with pytest.raises(UserError, match=r"namespace = 'other'.*allowed here: default"):
        backend.submit(demo)


def test_diff_shows_what_a_submit_would_change(backend: KubernetesBackend) -> None:
    assert backend.diff(manifest()) == ""
    backend.submit(manifest())
    assert backend.diff(manifest()) == ""
    lines = backend.diff(manifest(workers=3)).splitlines()
    changes = [line for line in lines if line[0] in "+-" and line[:3] not in ("+++", "---")]
    assert [line.replace(" ", "") for line in changes] == ["-replicas:1", "+replicas:3"]


def test_states_and_what_a_job_waits_for(server: ApiServer, backend: KubernetesBackend) -> None:
    backend.submit(manifest())
    until(lambda: backend.status("demo").pods)
    assert backend.status("demo").state is JobState.PENDING
    assert "its container is being created" in message(backend)

    def script(life: Life) -> None:
        if "worker" in life.name:
            return stays_pending("0/9 nodes are available: 9 Insufficient nvidia.com/gpu.")(life)
        return runs(seconds=60)(life)

    with Kubelet(server, script):
        backend.wait("demo", states={JobState.STARTING}, timeout=5)
        until(lambda: "Insufficient" in message(backend))
        assert message(backend) == (
            "1 of 2 pods run; demo-worker-0: waits for a node: 0/9 nodes are available: "
            "9 Insufficient nvidia.com/gpu."
        )
        assert [job.state for job in backend.list()] == [JobState.STARTING]
        backend.delete("demo")
    with Kubelet(server, cannot_pull("Back-off pulling image")):
        backend.submit(manifest())
        until(lambda: "image" in message(backend))
        assert message(backend) == (
            "demo-master-0 and 1 more: waits for its image: ImagePullBackOff: "
            "Back-off pulling image"
        )


def test_a_quota_is_named(server: ApiServer, backend: KubernetesBackend) -> None:
    def quota(obj: dict[str, Any]) -> dict[str, Any]:
        if obj["kind"] == "Pod":
            raise ApiError(403, "exceeded quota: gpus, requested: 8, used: 8, limited: 8")
        return obj

    server.admit(quota)
    backend.submit(manifest())
    until(lambda: "exceeded quota: gpus" in message(backend))
    assert backend.status("demo").state is JobState.PENDING


def test_a_job_queues(server: ApiServer, backend: KubernetesBackend) -> None:
    server.store.create(
        {
            "apiVersion": "kueue.x-k8s.io/v1beta1",
            "kind": "LocalQueue",
            "metadata": {"name": "gpus"},
            "spec": {"clusterQueue": "cluster-queue"},
        }
    )
    demo = manifest(labels={QUEUE_LABEL: "gpus"})
    with Kueue(server) as kueue, Kubelet(server, runs(seconds=60)):
        backend.submit(demo)
        assert backend.wait("demo", states={JobState.QUEUED}, timeout=5)
        kueue.explain("demo", "insufficient unused quota for nvidia.com/gpu")
        assert message(backend) == (
            "waits for the quota of its queue gpus: insufficient unused quota for nvidia.com/gpu"
        )
        backend.suspend("demo")
        (workload,) = server.store.all("Workload")
        assert workload["spec"]["active"] is False
        assert "florence jobs resume demo" in message(backend)
        backend.resume("demo")
        kueue.admit("demo")
        assert backend.wait("demo", states={JobState.RUNNING}, timeout=5)
        reasons = [event.reason for event in backend.events("demo")]
        assert "Pending" in reasons
        assert "Started" in reasons


def test_suspend_resume_cancel_delete(server: ApiServer, backend: KubernetesBackend) -> None:
    with Kubelet(server, runs(b"up\n", seconds=60)):
        backend.submit(manifest())
        assert backend.wait("demo", states={JobState.RUNNING}, timeout=5)
        backend.suspend("demo")
        backend.wait("demo", states={JobState.SUSPENDED}, timeout=5)
        until(lambda: not server.store.all("Pod"))
        backend.resume("demo")
        assert backend.wait("demo", states={JobState.RUNNING}, timeout=5)
        cancelled = backend.cancel("demo")
        assert (cancelled.state, cancelled.reason) == (JobState.FAILED, "Cancelled")
        for kind in ("PyTorchJob", "Pod", "ConfigMap"):
            assert not server.store.all(kind)
        with pytest.raises(UserError, match="no job named 'demo'"):
            backend.status("demo")
    with Kubelet(server, runs()):
        backend.submit(manifest())
        backend.wait("demo", timeout=5)
        assert backend.cancel("demo").state is JobState.SUCCEEDED
        with pytest.raises(UserError, match="has Succeeded"):
            backend.suspend("demo")
        backend.delete("demo")
        assert backend.list() == ()


def test_names_selectors_and_runs(server: ApiServer, backend: KubernetesBackend) -> None:
    backend.submit(manifest("florence-demo-1", labels={"florence/run": "demo"}))
    other = manifest("by-hand").job
    del other["metadata"]["labels"]
    server.store.create(other)
    assert backend.status("demo").name == "florence-demo-1"
    assert [job.name for job in backend.list()] == ["florence-demo-1"]
    assert {job.name for job in backend.list(selector="")} == {"florence-demo-1", "by-hand"}
    with pytest.raises(UserError, match="did you mean 'florence-demo-1'"):
        backend.status("florence-demo")


def test_wait_is_exact_and_outlasts_faults(server: ApiServer, backend: KubernetesBackend) -> None:
    backend.submit(manifest())
    for faults in ((), (Fault(status=503),), (Fault(delay=30, verb="list"),)):
        server.faults.clear()
        begin = time.monotonic()
        waiting = partial(backend.wait, "demo", timeout=0.5)
        server.faults.add(*faults)
        with pytest.raises(TimeoutError, match="demo"):
            waiting()
        assert 0.5 <= time.monotonic() - begin < 0.9


def test_tail_previous_and_rank(server: ApiServer, backend: KubernetesBackend) -> None:
    def script(life: Life) -> None:
        life.schedule()
        for attempt in range(2):
            life.start()
            life.log(f"{attempt} {n}\n".encode() for n in range(5))
            life.sleep(0.05 if attempt == 0 else 60)
            life.end(1)

    with Kubelet(server, script):
        backend.submit(manifest(restart="OnFailure"))
        until(lambda: backend.status("demo").restarts == 2)
        until(lambda: len(list(backend.logs("demo"))) == 10)
        assert [line for _, line in backend.logs("demo", tail=2, rank=1)] == ["1 3", "1 4"]
        assert {pod for pod, _ in backend.logs("demo", rank=1)} == {"demo-worker-0"}
        previous = list(backend.logs("demo", previous=True, rank=0))
        assert [line for _, line in previous] == [f"0 {n}" for n in range(5)]
        follower = backend.logs("demo", follow=True, tail=1, rank=0)
        assert next(follower) == LogLine("demo-master-0", "1 4")
        follower.close()  # type: ignore[attr-defined]
        with pytest.raises(UserError, match=r"rank = 2.* 0 to 1"):
            backend.logs("demo", rank=2)
        with pytest.raises(UserError, match="exclude each other"):
            backend.logs("demo", follow=True, previous=True)


def test_refusals_name_verb_resource_and_remedy(tmp_path: Path) -> None:
    denied = (Rule(verbs=("list",), resources=("pods",)),)
    with ApiServer(access=Access(token="secret", denied=denied)) as server:
        backend = connect(server, tmp_path)
        server.store.create(manifest().job)
        with pytest.raises(
            UserError, match=r"cannot list pods in namespace default: .*\(403\); ask for the right"
        ):
            backend.status("demo")
        server.access.token = "changed"
        with pytest.raises(UserError, match=r"cannot list pytorchjobs.*\(401\); .*log in again"):
            backend.list()
    with ApiServer(without_groups=("kubeflow.org",)) as server:
        backend = connect(server, tmp_path)
        with pytest.raises(UserError, match="its operator is not installed"):
            backend.list()
    cluster = Cluster("default", kubeconfig=tmp_path / "kubeconfig", first_backoff=0.01)
    with pytest.raises(InfrastructureError, match=r"does not list pytorchjobs.*florence doctor"):
        cluster.list(JOBS, patience=0.1)  # the server is gone
    with pytest.raises(UserError, match="nowhere"):
        KubernetesBackend("default", kubeconfig=tmp_path / "nowhere")


def test_a_throttled_request_waits_as_it_is_told(
    server: ApiServer, backend: KubernetesBackend
) -> None:
    server.faults.add(Fault(verb="list", status=429, retry_after=1, times=1))
    begin = time.monotonic()
    backend.list()
    assert time.monotonic() - begin >= 1


def test_a_list_in_pages_begins_anew_when_its_state_is_forgotten(
    server: ApiServer, backend: KubernetesBackend
) -> None:
    for index in range(1100):
        server.store.create(manifest(f"job-{index}").job)
    server.faults.add(Fault(verb="list", path="continue=", status=410, times=1))
    server.exchanges.clear()
    jobs = backend.list()
    assert len({job.name for job in jobs}) == len(jobs) == 1100
    assert [exchange.code for exchange in server.exchanges] == [200, 410, 200, 200]


def test_1000_jobs_with_8000_pods_take_few_requests(tmp_path: Path) -> None:
    with ApiServer() as server:  # no operator: the objects are put there as it would leave them
        backend = connect(server, tmp_path)
        for index in range(1000):
            put_running(server, f"job-{index}")
        server.exchanges.clear()
        jobs = backend.list()
        assert {job.state for job in jobs} == {JobState.RUNNING}
        assert len(jobs) == 1000
        assert all("/pytorchjobs?" in exchange.target for exchange in server.exchanges)
        assert len(server.exchanges) == 2
        server.exchanges.clear()
        assert len(backend.status("job-500").pods) == 8
        assert len(server.exchanges) == 2
        assert "labelSelector" in server.exchanges[1].target


def put_running(server: ApiServer, name: str) -> None:
    job = apply_defaults(server.store.create(manifest(name, workers=7).job).obj)
    for kind, count in (("Master", 1), ("Worker", 7)):
        for index in range(count):
            server.store.create(pod_manifest(job, kind, index))
            pod = pod_name(name, kind, index)
            server.store.set_status("Pod", pod, {"phase": "Running"})
    status = created_status(name, datetime.now(UTC))
    status["replicaStatuses"] = {"Master": {"active": 1}, "Worker": {"active": 7}}
    server.store.set_status("PyTorchJob", name, status)


def test_follow_all(server: ApiServer, backend: KubernetesBackend) -> None:
    def script(life: Life) -> None:
        life.schedule()
        life.sleep(0.3 if "worker" in life.name else 0)
        life.start()
        for n in range(50):
            life.log([f"{life.name} {n}\n".encode()])
            life.sleep(0.005)
        life.log([b"last"])
        if "master" in life.name:
            life.sleep(1)
        life.end(0)

    with Kubelet(server, script):
        backend.submit(manifest())
        found = list(backend.logs("demo", follow=True))
    for pod in ("demo-master-0", "demo-worker-0"):
        want = [LogLine(pod, f"{pod} {n}") for n in range(50)] + [LogLine(pod, "last")]
        assert [line for line in found if line.pod == pod] == want
