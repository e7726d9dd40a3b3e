"""200 jobs, each through every verb, on an API server whose answers go wrong at random.

No verb may hang, no line of a log be lost, repeated or given to another pod, no state be wrong.
"""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock

import pytest

from florence.launch import kubernetes_client
from florence.launch.kubernetes import KubernetesBackend
from florence.launch.manifest import JobManifest
from florence.launch.status import JobState
from florence.util.errors import UserError
from tests.apiserver import ApiServer, Fault
from tests.apiserver.controller import Controller
from tests.apiserver.kubelet import Kubelet, Life

ROUNDS = 200
SEED = 20211122
AT_ONCE = 8
FOLLOWED = r"/log\?.*follow"

FAULTS = (
    *(Fault(path=FOLLOWED, rate=0.15, cut_after=size) for size in (30, 200, 1000)),
    *(Fault(path=FOLLOWED, rate=0.1, end_after=size) for size in (0, 70, 700)),
    Fault(path=FOLLOWED, rate=0.1, chunk_delay=0.05),
    Fault(path=r"/log\?", rate=0.1, cut_after=100),
    Fault(path=r"/log\?", rate=0.1, status=500),
    Fault(verb="list", path="continue=", rate=0.1, status=410),
    Fault(verb="create|patch|delete", rate=0.1, lose_answer=True),
    Fault(rate=0.05, status=500),
    Fault(rate=0.05, status=429),
    Fault(rate=0.001, status=429, retry_after=1),
    Fault(rate=0.03, status=503),
    Fault(rate=0.05, reset=True),
    Fault(rate=0.03, cut_after=40),
    Fault(rate=0.03, delay=0.1),
)


class Plan:
    """What the pods of one job do; the master ends last, as its end is the job's."""

    def __init__(self, index: int) -> None:
        dice = random.Random(SEED + index)
        self.name = f"job-{index}"
        self.workers = dice.randrange(3)
        self.fails = dice.random() < 0.2
        self.restarts = dice.random() < 0.3
        self.suspends = dice.random() < 0.2
        self.lines = dice.randrange(1, 60)
        self.pause = dice.choice((0.0, 0.0, 0.01))
        self.unterminated = dice.random() < 0.5
        self._left = self.workers
        self._lock = Lock()

    def pods(self) -> list[str]:
        return [f"{self.name}-master-0"] + [f"{self.name}-worker-{n}" for n in range(self.workers)]

    def expected(self, pod: str) -> list[str]:
        """The lines of a pod, also those of a container that is started again."""
        runs = 1 + (self.restarts and not self.fails)
        lines = [f"{pod} {run} {n}" for run in range(runs) for n in range(self.lines)]
        return [*lines, "error: no such folder"] if self.fails else lines

    def run(self, life: Life) -> None:
        life.schedule()
        for run in range(1 + (self.restarts and not self.fails)):
            life.start()
            self._print(life, run)
            if self.restarts and not self.fails and run == 0:
                life.end(130)
                life.sleep(0.05)
        if "worker" in life.name:
            with self._lock:
                self._left -= 1
        else:
            while self._left > 0:
                life.sleep(0.01)
        life.end(2 if self.fails and "master" in life.name else 0)

    def _print(self, life: Life, run: int) -> None:
        lines = [f"{life.name} {run} {n}\n" for n in range(self.lines)]
        if self.fails:
            lines.append("error: no such folder\n")
        if self.unterminated:
            lines[-1] = lines[-1].rstrip()
        for line in lines:
            life.log([line.encode()])
            life.sleep(self.pause)

    def manifest(self) -> JobManifest:
        container = {
            "name": "pytorch",
            "image": "image",
            "terminationMessagePolicy": "FallbackToLogsOnError",
        }
        template = {"spec": {"containers": [container]}}
        policy = "ExitCode" if self.fails else "OnFailure"
        counts = {"Master": 1} | ({"Worker": self.workers} if self.workers else {})
        labels = {"app.kubernetes.io/name": "florence"}
        job = {
            "apiVersion": "kubeflow.org/v1",
            "kind": "PyTorchJob",
            "metadata": {"name": self.name, "labels": labels},
            "spec": {
                "runPolicy": {"cleanPodPolicy": "Running"},
                "pytorchReplicaSpecs": {
                    kind: {"replicas": count, "restartPolicy": policy, "template": template}
                    for kind, count in counts.items()
                },
            },
        }
        config_map = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": self.name},
            "data": {"run.yaml": ""},
        }
        return JobManifest(job, (config_map,))


@pytest.mark.timeout(120)
def test_200_rounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kubernetes_client, "PAGE", 50)
    plans = {plan.name: plan for plan in map(Plan, range(ROUNDS))}

    def script(life: Life) -> None:
        plans[life.name.rsplit("-", 2)[0]].run(life)

    with ApiServer(seed=SEED) as server, Controller(server), Kubelet(server, script):
        kubeconfig = server.write_kubeconfig(tmp_path / "kubeconfig")
        backend = KubernetesBackend("default", kubeconfig=kubeconfig, poll_seconds=0.02)
        server.faults.add(*FAULTS)
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(lambda plan: go_through(backend, plan), plans.values()))
        assert server.faults.struck() > 10 * ROUNDS
        assert not server.store.all("PyTorchJob") + server.store.all("ConfigMap")


def go_through(backend: KubernetesBackend, plan: Plan) -> None:
    name, end = plan.name, JobState.FAILED if plan.fails else JobState.SUCCEEDED
    assert backend.submit(plan.manifest()).outcome == "started", name
    by_pod: dict[str, list[str]] = {pod: [] for pod in plan.pods()}
    for pod, line in backend.logs(name, follow=True):
        by_pod[pod].append(line)
    for pod in plan.pods():
        assert by_pod[pod] == plan.expected(pod), pod
    status = backend.wait(name, timeout=30)
    assert status.state is end, name
    assert len(status.pods) == 1 + plan.workers
    if plan.fails:
        assert backend.status(name).message == "no such folder"
    assert {job.name: job.state for job in backend.list()}[name] is end
    assert "PyTorchJobCreated" in {event.reason for event in backend.events(name)} or plan.fails
    for pod, line in backend.logs(name, rank=0, tail=1):
        assert (pod, line) == (plan.pods()[0], plan.expected(pod)[-1])
    outcome = backend.submit(plan.manifest()).outcome if not plan.fails else "done"
    assert outcome == "done", name
    with pytest.raises(UserError, match="only one that has not ended"):
        backend.suspend(name)
    backend.delete(name)
    with pytest.raises(UserError, match="no job named"):
        backend.wait(name, timeout=10)
