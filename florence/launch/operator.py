"""The training operator's reconcile step as a pure function.

The operator meant is v1, release 1.9: `common/job.go`, `common/pod.go`, `core/job.go`,
`util/status.go` and `pytorch/pytorchjob_controller.go`. Nothing here knows whether the pods are
processes of this machine or objects of an API server. Two things are left to the caller: to call
again as time passes (the operator itself only looks when something changes, so a deadline may
pass unnoticed there), and to delete the job after `ttlSecondsAfterFinished`.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from florence.launch.manifest import Manifest, replicas
from florence.launch.pods import job_labels, pod_manifest
from florence.launch.status import PodStatus, format_time, parse_time

RETRYABLE_EXIT_CODE = 128
"""Under `restartPolicy: ExitCode`, this and above is tried again."""
_UNKNOWN_EXIT_CODE = 0xBEEF  # a container that left none: evicted, or its node lost


@dataclass(frozen=True)
class Decision:
    """What one reconcile step wants: the job's new status, and pods to create and delete."""

    status: Manifest
    create: tuple[Manifest, ...] = ()
    delete: tuple[str, ...] = ()


def created_status(job_name: str, now: datetime) -> Manifest:
    """Returns the status the operator gives a job when it first sees it."""
    conditions = _Conditions({}, job_name, now)
    conditions.set("Created", "is created.")
    return conditions.status


def is_finished(status: Manifest) -> bool:
    """Whether the job has succeeded or failed."""
    return _is_true(status, "Succeeded") or _is_true(status, "Failed")


def failed_status(status: Manifest, *, reason: str, message: str, now: datetime) -> Manifest:
    """Returns `status` as failed for a reason of the caller's own, such as a cancellation."""
    conditions = _Conditions(copy.deepcopy(status), "", now)
    conditions.put("Failed", "True", reason, message)
    conditions.complete()
    return conditions.status


def reconcile(job: Manifest, pods: Sequence[PodStatus], *, now: datetime) -> Decision:
    """Decides the next step for a job (defaults applied, its last `status` inside) and its pods."""
    step = _Step(job, pods, now)
    policy = job["spec"]["runPolicy"]
    if is_finished(step.status):
        return step.clean_up(policy["cleanPodPolicy"])
    if policy.get("suspend"):
        return step.suspend()
    if _is_true(step.status, "Suspended"):
        step.conditions.set("Suspended", "is resumed.", value="False", word="Resumed")
        step.status["startTime"] = format_time(now)
    if limit := step.exceeded_limit(policy):
        step.conditions.complete()
        step.conditions.set("Failed", f"has failed because it {limit}")
        return Decision(step.status, delete=tuple(pod.name for pod in pods))
    return step.advance()


class _Conditions:
    """The conditions of a status, changed by the operator's rules."""

    def __init__(self, status: Manifest, job_name: str, now: datetime) -> None:
        self.status = status
        self._job_name = job_name
        self._now = format_time(now)

    def set(self, kind: str, text: str, *, value: str = "True", word: str | None = None) -> None:
        """Sets a condition with the operator's reason and message."""
        self.put(kind, value, f"PyTorchJob{word or kind}", f"PyTorchJob {self._job_name} {text}")

    def put(self, kind: str, value: str, reason: str, message: str) -> None:
        """Sets a condition, unless the job has failed or nothing changes."""
        conditions = self.status.setdefault("conditions", [])
        if _is_true(self.status, "Failed"):
            return
        old = next((c for c in conditions if c["type"] == kind), None)
        if old is not None and (old["status"], old["reason"]) == (value, reason):
            return
        evicted = {kind, {"Running": "Restarting", "Restarting": "Running"}.get(kind)}
        kept = [c for c in conditions if c["type"] not in evicted]
        for condition in kept:
            if kind in ("Failed", "Succeeded") and condition["type"] == "Running":
                condition["status"] = "False"
        same = old is not None and old["status"] == value
        self.status["conditions"] = [
            *kept,
            {
                "type": kind,
                "status": value,
                "reason": reason,
                "message": message,
                "lastUpdateTime": self._now,
                "lastTransitionTime": old["lastTransitionTime"] if old and same else self._now,
            },
        ]

    def complete(self) -> None:
        """Notes the time the job ended, once."""
        self.status.setdefault("completionTime", self._now)


class _Step:
    """One reconcile step: the status being built and what it looks at."""

    def __init__(self, job: Manifest, pods: Sequence[PodStatus], now: datetime) -> None:
        self.job = job
        self.name: str = job["metadata"]["name"]
        self.pods = pods
        self.now = now
        self.status: Manifest = copy.deepcopy(job.get("status") or created_status(self.name, now))
        self.conditions = _Conditions(self.status, self.name, now)
        self.create: list[Manifest] = []
        self.delete: list[str] = []

    def clean_up(self, policy: str) -> Decision:
        """Ends a finished job's pods as its cleanPodPolicy says."""
        if _is_true(self.status, "Succeeded"):
            for counts in self.status.get("replicaStatuses", {}).values():
                counts["succeeded"] = counts.get("succeeded", 0) + counts.pop("active", 0)
        unwanted = {
            "None": [],
            "Running": [pod.name for pod in self.pods if pod.is_active],
            "All": [pod.name for pod in self.pods],
        }
        return Decision(self.status, delete=tuple(unwanted[policy]))

    def suspend(self) -> Decision:
        """Ends every pod; cleanPodPolicy does not apply."""
        for counts in self.status.get("replicaStatuses", {}).values():
            counts.pop("active", None)
        if _is_true(self.status, "Running"):
            self.conditions.set("Running", "is suspended.", value="False", word="Suspended")
        if not _is_true(self.status, "Suspended"):
            self.conditions.set("Suspended", "is suspended.")
        return Decision(self.status, delete=tuple(pod.name for pod in self.pods))

    def exceeded_limit(self, policy: Manifest) -> str | None:
        """Returns which limit of the runPolicy is exceeded, in words."""
        backoff, deadline = policy.get("backoffLimit"), policy.get("activeDeadlineSeconds")
        if backoff is not None and self._past_backoff(backoff):
            return "has reached the specified backoff limit"
        start = parse_time(self.status.get("startTime"))
        if deadline is not None and start is not None:  # noqa: SIM102
            if self.now - start >= timedelta(seconds=deadline):
                return "was active longer than specified deadline"
        return None

    def _past_backoff(self, limit: int) -> bool:
        counted = {k for k, replica in replicas(self.job) if replica["restartPolicy"] != "Never"}
        running = [pod for pod in self.pods if pod.phase == "Running"]
        restarts = sum(pod.restarts for pod in running if pod.kind in counted)
        if limit:
            return restarts >= limit
        before = self.status.get("replicaStatuses", {}).values()
        failed = sum(pod.phase == "Failed" for pod in self.pods)
        return restarts > 0 or failed > sum(counts.get("failed", 0) for counts in before)

    def advance(self) -> Decision:
        """Replaces pods that are missing or may be tried again, then counts the rest."""
        self.status.setdefault("startTime", format_time(self.now))
        for kind, replica in replicas(self.job):
            self._reconcile_replica(kind, replica)
        for kind, replica in replicas(self.job):
            self._conclude(kind, replica)
            if kind == "Master" and _is_true(self.status, "Succeeded"):
                break  # whatever becomes of the workers
        return Decision(self.status, tuple(self.create), tuple(self.delete))

    def _reconcile_replica(self, kind: str, replica: Manifest) -> None:
        pods = {pod.index: pod for pod in self.pods if pod.kind == kind}
        for index in range(replica["replicas"]):
            if index not in pods:
                self.create.append(pod_manifest(self.job, kind, index))
        for index, pod in pods.items():
            if index >= replica["replicas"]:
                self.delete.append(pod.name)
            if pod.phase == "Failed" and replica["restartPolicy"] != "Never":
                self._retry_or_fail(pod, replica["restartPolicy"])
        self.status.setdefault("replicaStatuses", {})[kind] = self._count(kind, pods.values())

    def _retry_or_fail(self, pod: PodStatus, policy: str) -> None:
        code = _UNKNOWN_EXIT_CODE if pod.exit_code is None else pod.exit_code
        if policy == "ExitCode" and code < RETRYABLE_EXIT_CODE:
            self.conditions.set("Failed", f"is failing because {pod.kind} replica(s) failed.")
            return
        self.delete.append(pod.name)
        self.conditions.set("Restarting", f"is restarting because {pod.kind} replica(s) failed.")

    def _count(self, kind: str, pods: Collection[PodStatus]) -> Manifest:
        failed = sum(p.phase == "Failed" or (p.phase == "Running" and p.deleting) for p in pods)
        counts = {
            "active": sum(pod.phase == "Running" and not pod.deleting for pod in pods),
            "succeeded": sum(pod.phase == "Succeeded" for pod in pods),
            "failed": failed,
        }
        labels = job_labels(self.name) | {"training.kubeflow.org/replica-type": kind.lower()}
        selector = ",".join(f"{key}={value}" for key, value in sorted(labels.items()))
        return {name: n for name, n in counts.items() if n} | {"selector": selector}

    def _conclude(self, kind: str, replica: Manifest) -> None:
        counts = self.status["replicaStatuses"][kind]
        total: int = replica["replicas"]
        active, succeeded, failed = (counts.get(n, 0) for n in ("active", "succeeded", "failed"))
        elastic = self.job["spec"].get("elasticPolicy") is not None
        if kind == "Master" or "Master" not in self.job["spec"]["pytorchReplicaSpecs"]:
            if succeeded == total or (kind == "Worker" and elastic and succeeded):
                self.conditions.complete()
                self.conditions.set("Succeeded", "is successfully completed.")
            elif active:
                self.conditions.set("Running", "is running.")
        if failed and total > succeeded + active:
            if replica["restartPolicy"] == "Never":
                self.conditions.complete()
                self.conditions.set(
                    "Failed", f"is failed because {failed} {kind} replica(s) failed."
                )
            else:
                text = f"is restarting because {failed} {kind} replica(s) failed."
                self.conditions.set("Restarting", text)


def _is_true(status: Manifest, kind: str) -> bool:
    return any(c["type"] == kind and c["status"] == "True" for c in status.get("conditions", ()))
