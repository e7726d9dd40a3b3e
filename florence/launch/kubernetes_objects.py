"""What the Kubernetes backend reads from and writes into a job's objects: no requests."""

from __future__ import annotations

import copy
import json
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from florence.launch.kubernetes_explain import observe
from florence.launch.manifest import Manifest, replicas
from florence.launch.status import JobState, JobStatus, PodStatus, job_status, parse_time

_LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
SLACK = timedelta(seconds=60)
"""Beyond its grace period, after which a pod that does not go counts as lost."""
SUBMISSION = "florence/submission"
"""Annotation by which a submit knows its own job, should the answer to its create get lost."""


def status_of(job: Manifest, pods: Sequence[Manifest]) -> JobStatus:
    """Returns the status of a job by its object and those of its pods."""
    seen = [observe(pod) for pod in pods]
    return job_status(job, seen, restarts=sum(pod.restarts for pod in seen))


def counted_pods(job: Manifest) -> tuple[PodStatus, ...]:
    """Returns as many pods as the operator has counted, to tell the state of a job from."""
    counts = (job.get("status") or {}).get("replicaStatuses") or {}
    phases = {"active": "Running", "succeeded": "Succeeded", "failed": "Failed"}
    return tuple(
        PodStatus(name="", kind=kind, index=index, phase=phase)
        for kind, of_kind in counts.items()
        for key, phase in phases.items()
        for index in range(of_kind.get(key) or 0)
    )


def age(status: JobStatus) -> datetime:
    """Returns what to sort jobs by."""
    return status.created or datetime.min.replace(tzinfo=UTC)


def may_stay(live: Manifest, state: JobState, *, rerun: bool) -> bool:
    """Whether a submit leaves the job that is there as it is."""
    return not (rerun or state is JobState.FAILED or "deletionTimestamp" in live["metadata"])


def marked(job: Manifest) -> Manifest:
    """Returns a copy that its submit can tell from another's."""
    job = copy.deepcopy(job)
    annotations = job["metadata"].get("annotations") or {}
    job["metadata"]["annotations"] = annotations | {SUBMISSION: uuid.uuid4().hex}
    job["spec"].setdefault("runPolicy", {})  # kubeflow's own client cannot read a job without
    return job


def submission(job: Manifest) -> str | None:
    """Returns the mark of the submit that made a job."""
    annotations: dict[str, str] = job["metadata"].get("annotations") or {}
    return annotations.get(SUBMISSION)


def comparable(obj: Manifest) -> Manifest:
    """Returns what a manifest says of an object, with its keys in order."""
    metadata = {key: obj["metadata"].get(key) or {} for key in ("name", "labels", "annotations")}
    hidden = (SUBMISSION, _LAST_APPLIED)
    annotations = {k: v for k, v in metadata["annotations"].items() if k not in hidden}
    shown = {key: value for key, value in obj.items() if key not in ("metadata", "status")}
    if "spec" in shown:
        shown["spec"] = {"runPolicy": {}} | shown["spec"]
    text = json.dumps(shown | {"metadata": metadata | {"annotations": annotations}}, sort_keys=True)
    comparable: Manifest = json.loads(text)
    return comparable


def may_print(pod: Manifest) -> bool:
    """Whether more can come from a pod; not from one whose node is lost while it is deleted."""
    overdue = parse_time(pod["metadata"].get("deletionTimestamp"))
    lost = overdue is not None and datetime.now(UTC) - overdue > SLACK
    return observe(pod).is_active and not lost


def grace(job: Manifest) -> float:
    """Returns the seconds the slowest of the job's pods may take to end."""
    specs = (replica["template"]["spec"] for _, replica in replicas(job))
    return float(max(spec.get("terminationGracePeriodSeconds", 30) for spec in specs))
