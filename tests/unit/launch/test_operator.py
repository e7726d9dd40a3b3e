"""The operator's reconcile step, against the tables of its source (release 1.9)."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from florence.launch.manifest import Manifest, apply_defaults
from florence.launch.operator import Decision, created_status, reconcile
from florence.launch.status import PodStatus

NOW = datetime(2026, 1, 1, tzinfo=UTC)
MASTER = PodStatus(name="job-master-0", kind="Master", index=0, phase="Running")
WORKER = PodStatus(name="job-worker-0", kind="Worker", index=0, phase="Running")


def make_job(*, restart: str = "ExitCode", master: bool = True, **spec: Any) -> Manifest:
    """A job of a Master (or not) and one Worker; `run_policy` and other fields of its spec."""
    container = {"name": "pytorch", "image": "any", "command": ["true"]}
    replica = {
        "replicas": 1,
        "restartPolicy": restart,
        "template": {"spec": {"containers": [container]}},
    }
    kinds = ("Master", "Worker") if master else ("Worker",)
    job = {
        "apiVersion": "kubeflow.org/v1",
        "kind": "PyTorchJob",
        "metadata": {"name": "job", "namespace": "default", "uid": "1"},
        "spec": {"pytorchReplicaSpecs": dict.fromkeys(kinds, replica), **spec},
    }
    return apply_defaults(job) | {"status": created_status("job", NOW)}


def step(job: Manifest, *pods: PodStatus, after: float = 0) -> Decision:
    """One reconcile, `after` seconds from the start; the job keeps the new status."""
    decision = reconcile(job, pods, now=NOW + timedelta(seconds=after))
    job["status"] = decision.status
    return decision


def conditions(job: Manifest) -> dict[str, str]:
    return {c["type"]: c["status"] for c in job["status"]["conditions"]}


def ended(pod: PodStatus, code: int | None) -> PodStatus:
    return replace(pod, phase="Succeeded" if code == 0 else "Failed", exit_code=code)


def test_missing_pods_are_created_and_a_running_master_makes_the_job_running() -> None:
    job = make_job()
    assert [pod["metadata"]["name"] for pod in step(job).create] == [MASTER.name, WORKER.name]
    assert conditions(job) == {"Created": "True"}
    assert not step(job, MASTER, WORKER).create
    assert conditions(job) == {"Created": "True", "Running": "True"}
    assert job["status"]["replicaStatuses"]["Worker"]["active"] == 1


@pytest.mark.parametrize(
    ("restart", "code", "outcome", "pod_is_deleted"),
    [
        ("Never", 1, "Failed", False),
        ("Never", 137, "Failed", False),
        ("ExitCode", 1, "Failed", False),
        ("ExitCode", 127, "Failed", False),
        ("ExitCode", 128, "Restarting", True),
        ("ExitCode", 143, "Restarting", True),
        ("ExitCode", None, "Restarting", True),  # evicted: no container to ask
        ("OnFailure", None, "Restarting", True),
        ("Always", None, "Restarting", True),
    ],
)
def test_a_failed_pod(restart: str, code: int | None, outcome: str, pod_is_deleted: bool) -> None:
    job = make_job(restart=restart)
    step(job, MASTER, WORKER)
    decision = step(job, MASTER, ended(WORKER, code))
    assert conditions(job)[outcome] == "True"
    assert (WORKER.name in decision.delete) == pod_is_deleted
    if outcome == "Failed":
        assert conditions(job)["Running"] == "False"
    else:
        assert "Running" not in conditions(job)  # it and Restarting evict each other


def test_a_deleted_pod_is_made_again() -> None:
    job = make_job()
    step(job, MASTER, ended(WORKER, 143))
    assert [pod["metadata"]["name"] for pod in step(job, MASTER).create] == [WORKER.name]
    step(job, MASTER, WORKER)
    assert conditions(job)["Running"] == "True"
    assert "Restarting" not in conditions(job)


def test_the_master_alone_decides_success() -> None:
    job = make_job()
    step(job, MASTER, WORKER)
    step(job, ended(MASTER, 0), WORKER)
    assert conditions(job) == {"Created": "True", "Running": "False", "Succeeded": "True"}
    assert "completionTime" in job["status"]


@pytest.mark.parametrize(("elastic", "succeeded"), [(None, False), ({"minReplicas": 1}, True)])
def test_without_a_master_all_workers_must_succeed_or_any_if_elastic(
    elastic: Manifest | None, succeeded: bool
) -> None:
    job = make_job(master=False, **({"elasticPolicy": elastic} if elastic else {}))
    job["spec"]["pytorchReplicaSpecs"]["Worker"]["replicas"] = 2
    other = replace(WORKER, name="job-worker-1", index=1)
    step(job, WORKER, other)
    step(job, WORKER, ended(other, 0))
    assert conditions(job).get("Succeeded") == ("True" if succeeded else None)
    step(job, ended(WORKER, 0), ended(other, 0))
    assert conditions(job)["Succeeded"] == "True"


@pytest.mark.parametrize(
    ("policy", "deleted"),
    [("None", []), ("Running", [WORKER.name]), ("All", [MASTER.name, WORKER.name])],
)
def test_what_is_cleaned_up(policy: str, deleted: list[str]) -> None:
    job = make_job(runPolicy={"cleanPodPolicy": policy})
    pods = (ended(MASTER, 0), WORKER)
    step(job, *pods)
    assert list(step(job, *pods).delete) == deleted


def test_nothing_changes_after_failure() -> None:
    job = make_job()
    step(job, MASTER, ended(WORKER, 2))
    before = job["status"]
    step(job, ended(MASTER, 0), ended(WORKER, 2), after=60)
    assert job["status"]["conditions"] == before["conditions"]


@pytest.mark.parametrize(
    ("limit", "restarts", "fails"), [(3, 2, False), (3, 3, True), (0, 1, True)]
)
def test_the_backoff_limit_sums_restarts_over_running_pods(
    limit: int, restarts: int, fails: bool
) -> None:
    job = make_job(restart="OnFailure", runPolicy={"backoffLimit": limit})
    step(job, MASTER, WORKER)
    decision = step(job, MASTER, replace(WORKER, restarts=restarts))
    assert (conditions(job).get("Failed") == "True") == fails
    assert len(decision.delete) == (2 if fails else 0)


def test_the_deadline_counts_from_the_start() -> None:
    job = make_job(runPolicy={"activeDeadlineSeconds": 60})
    step(job, MASTER, WORKER)
    step(job, MASTER, WORKER, after=59)
    assert "Failed" not in conditions(job)
    assert len(step(job, MASTER, WORKER, after=60).delete) == 2
    assert conditions(job)["Failed"] == "True"


def test_suspend_ends_the_pods_and_resume_starts_the_clock_again() -> None:
    job = make_job(runPolicy={"activeDeadlineSeconds": 60})
    step(job, MASTER, WORKER)
    job["spec"]["runPolicy"]["suspend"] = True
    assert len(step(job, MASTER, WORKER, after=30).delete) == 2
    assert conditions(job) == {"Created": "True", "Running": "False", "Suspended": "True"}
    assert not step(job, after=50).create
    job["spec"]["runPolicy"]["suspend"] = False
    assert len(step(job, after=100).create) == 2
    assert conditions(job)["Suspended"] == "False"
    step(job, MASTER, WORKER, after=150)
    assert "Failed" not in conditions(job)
