"""What a user sees of a job: one state, one sentence, its pods."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from florence.launch.manifest import Manifest, replicas

LABEL_RUN = "florence/run"
LABEL_KIND = "florence/kind"
ANNOTATION_FINGERPRINT = "florence/fingerprint"
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"


class JobState(StrEnum):
    """The one state a job is in."""

    QUEUED = "Queued"
    """Suspended until its queue admits it."""
    PENDING = "Pending"
    """Accepted; no pod runs yet."""
    STARTING = "Starting"
    """Some pods run."""
    RUNNING = "Running"
    """Every pod runs."""
    RESTARTING = "Restarting"
    SUSPENDED = "Suspended"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"

    @property
    def is_finished(self) -> bool:
        """Whether the state is final."""
        return self in (JobState.SUCCEEDED, JobState.FAILED)


@dataclass(frozen=True, kw_only=True)
class PodStatus:
    """What is observed of one pod."""

    name: str
    kind: str
    """Master or Worker."""
    index: int
    phase: str = "Pending"
    """Pending, Running, Succeeded or Failed."""
    exit_code: int | None = None
    """Of the container's last end."""
    restarts: int = 0
    """How often its container was restarted in place."""
    message: str = ""
    """The end of the log of a container that failed."""
    deleting: bool = False

    @property
    def is_active(self) -> bool:
        """Whether the pod runs or will."""
        return self.phase in ("Pending", "Running")


@dataclass(frozen=True, kw_only=True)
class JobStatus:
    """A job as `florence jobs status` shows it; times are in UTC."""

    name: str
    run: str
    """Name of the run it was rendered from; the job's own name for a manifest written by hand."""
    kind: str
    """train, evaluate or curate; empty for a manifest written by hand."""
    state: JobState
    reason: str
    message: str
    created: datetime | None
    started: datetime | None
    finished: datetime | None
    pods: tuple[PodStatus, ...]
    restarts: int


def job_status(job: Manifest, pods: Sequence[PodStatus], *, restarts: int) -> JobStatus:
    """Computes the status of a PyTorchJob object (its `status` included) and its pods."""
    metadata = job["metadata"]
    labels = metadata.get("labels") or {}
    status = job.get("status") or {}
    deciding = _deciding_condition(status)
    state = _state(job, deciding, pods)
    finished = status.get("completionTime")
    if finished is None and state.is_finished:  # the operator forgets it on a permanent exit code
        finished = deciding.get("lastTransitionTime")
    return JobStatus(
        name=metadata["name"],
        run=labels.get(LABEL_RUN, metadata["name"]),
        kind=labels.get(LABEL_KIND, ""),
        state=state,
        reason=deciding.get("reason", ""),
        message=_message(state, deciding, pods),
        created=parse_time(metadata.get("creationTimestamp")),
        started=parse_time(status.get("startTime")),
        finished=parse_time(finished),
        pods=tuple(pods),
        restarts=restarts,
    )


def _deciding_condition(status: Manifest) -> dict[str, str]:
    """Returns the condition that tells the state; the others can stay true beside it."""
    true = {c["type"]: c for c in status.get("conditions") or () if c["status"] == "True"}
    for kind in ("Failed", "Succeeded", "Suspended", "Restarting", "Running", "Created"):
        if kind in true:
            return dict(true[kind])
    return {"type": "Created"}


def _state(job: Manifest, deciding: dict[str, str], pods: Sequence[PodStatus]) -> JobState:
    kind = deciding["type"]
    if kind == "Suspended":
        queued = QUEUE_LABEL in (job["metadata"].get("labels") or {})
        return JobState.QUEUED if queued else JobState.SUSPENDED
    if kind in ("Failed", "Succeeded", "Restarting"):
        return JobState(kind)
    up = sum(pod.phase in ("Running", "Succeeded") for pod in pods)
    # The operator says Running as soon as the master does.
    if up >= sum(replica.get("replicas", 1) for _, replica in replicas(job)):
        return JobState.RUNNING
    return JobState.STARTING if up else JobState.PENDING


def _message(state: JobState, deciding: dict[str, str], pods: Sequence[PodStatus]) -> str:
    """Prefers what the failed container itself said over what the operator says about it."""
    if state in (JobState.FAILED, JobState.RESTARTING):
        failed = [pod for pod in pods if pod.message and pod.exit_code]
        permanent = [pod for pod in failed if (pod.exit_code or 0) < 128]
        for pod in permanent or failed:
            return error_sentence(pod.message)
    return deciding.get("message", "")


def error_sentence(log: str) -> str:
    """Returns the last `error: ...` line of a log without its prefix, else its last line."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return (errors or lines or [""])[-1]


def parse_time(text: str | None) -> datetime | None:
    """Reads a Kubernetes time such as 2026-01-31T12:00:00Z."""
    return None if text is None else datetime.fromisoformat(text)


def format_time(time: datetime) -> str:
    """Writes a time as Kubernetes does: UTC, whole seconds."""
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
