"""What a job on the cluster is waiting for, in one sentence, from its pods, events and queue."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from florence.launch.backend import Event
from florence.launch.kubernetes_client import PATIENCE, Cluster, RefusedError
from florence.launch.kubernetes_resources import EVENTS, PODS, WORKLOADS
from florence.launch.manifest import CONTAINER, Manifest, replicas
from florence.launch.pods import LABEL, job_labels, pod_name
from florence.launch.status import (
    QUEUE_LABEL,
    JobState,
    JobStatus,
    PodStatus,
    parse_time,
)

_STARTING = ("", "ContainerCreating", "PodInitializing")
"""Reasons of a waiting container that say nothing: an event does, if something is wrong."""
_IMAGE = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull")


class Wait(NamedTuple):
    """Why one pod does not run yet."""

    pod: Manifest
    text: str
    """Empty if only an event can tell."""


def job_selector(name: str) -> str:
    """Returns the selector of a job's pods."""
    return ",".join(f"{key}={value}" for key, value in job_labels(name).items())


def job_pods(cluster: Cluster, job: Manifest, *, patience: float = PATIENCE) -> list[Manifest]:
    """Returns the pods of exactly this job, by node rank; not those of one deleted before it."""
    name, uid = job["metadata"]["name"], job["metadata"]["uid"]
    found = cluster.list(PODS, labels=job_selector(name), patience=patience)
    return sorted(
        (pod for pod in found if _is_owned(pod, uid)), key=lambda pod: node_rank(job, pod)
    )


def node_rank(job: Manifest, pod: Manifest) -> int:
    """Returns the rank the operator gives a pod's node: the master's is 0."""
    labels = pod["metadata"]["labels"]
    index = int(labels[LABEL + "replica-index"])
    has_master = "Master" in job["spec"]["pytorchReplicaSpecs"]
    return index + (has_master and labels[LABEL + "replica-type"] == "worker")


def observe(pod: Manifest) -> PodStatus:
    """Returns what a pod object tells about its container `pytorch`."""
    labels, status = pod["metadata"]["labels"], pod.get("status") or {}
    own = container_status(pod)
    ended = _ended(own, "state") or _ended(own, "lastState")
    code = ended.get("exitCode")
    message = ended.get("message", "") if code else ""
    if status.get("phase") == "Failed" and not ended:  # evicted, or its node is lost
        message = status.get("message", "")
    return PodStatus(
        name=pod["metadata"]["name"],
        kind=labels[LABEL + "replica-type"].title(),
        index=int(labels[LABEL + "replica-index"]),
        phase=status.get("phase", "Pending"),
        exit_code=code,
        restarts=own.get("restartCount", 0),
        message=message,
        deleting="deletionTimestamp" in pod["metadata"],
    )


def container_status(pod: Manifest) -> Manifest:
    """Returns the status of a pod's container `pytorch`; empty before there is one."""
    statuses = (pod.get("status") or {}).get("containerStatuses") or ()
    return next((dict(own) for own in statuses if own["name"] == CONTAINER), {})


def job_events(cluster: Cluster, job: Manifest) -> list[Event]:
    """Returns the events about a job, its pods, gone ones too, and its workload, oldest first."""
    metadata = job["metadata"]
    name, created = metadata["name"], parse_time(metadata["creationTimestamp"])
    about = {("PyTorchJob", name)} | {
        ("Pod", pod_name(name, kind, index))
        for kind, replica in replicas(job)
        for index in range(replica.get("replicas", 1))
    }
    if QUEUE_LABEL in (metadata.get("labels") or {}) and (found := find_workload(cluster, job)):
        about.add(("Workload", found["metadata"]["name"]))
    events = [
        _event(event)
        for event in cluster.list(EVENTS)
        if (event["involvedObject"].get("kind"), event["involvedObject"].get("name")) in about
    ]
    # An earlier job of the same name had pods of the same names.
    return sorted(
        (event for event in events if event.time and created and event.time >= created), key=_when
    )


def _events_about(cluster: Cluster, obj: Manifest) -> list[Event]:
    found = cluster.list(EVENTS, fields=f"involvedObject.uid={obj['metadata']['uid']}")
    return sorted(map(_event, found), key=_when)


def _event(event: Manifest) -> Event:
    times = (event.get(key) for key in ("lastTimestamp", "eventTime", "firstTimestamp"))
    first = next(filter(None, times), event["metadata"].get("creationTimestamp"))
    about = event["involvedObject"]
    return Event(
        time=parse_time(first),
        object=f"{about.get('kind')} {about.get('name')}",
        type=event.get("type", ""),
        reason=event.get("reason", ""),
        message=" ".join(event.get("message", "").split()),
        count=event.get("count") or 1,
    )


def _when(event: Event) -> float:
    return event.time.timestamp() if event.time else 0.0


def explain(cluster: Cluster, job: Manifest, pods: Sequence[Manifest], status: JobStatus) -> str:
    """Returns what the job waits for; the message it has if it waits for nothing."""
    if status.state is JobState.QUEUED:
        return _queue(cluster, job)
    if status.state not in (JobState.PENDING, JobState.STARTING):
        return status.message
    total = sum(replica.get("replicas", 1) for _, replica in replicas(job))
    up = sum(pod.phase in ("Running", "Succeeded") for pod in status.pods)
    waits = [Wait(pod, _wait(pod)) for pod in pods if observe(pod).phase == "Pending"]
    prefix = f"{up} of {total} pods run; " if up else ""
    return prefix + (
        _pods(cluster, waits) if waits else _operator(cluster, job, missing=total - up)
    )


def _queue(cluster: Cluster, job: Manifest) -> str:
    queue = job["metadata"]["labels"][QUEUE_LABEL]
    try:
        workload = find_workload(cluster, job)
    except RefusedError:  # no right to read them, or no Kueue
        workload = None
    if workload is None:
        return f"waits for its queue {queue} to take it up"
    if workload["spec"].get("active") is False:
        return f"held back from its queue {queue}: florence jobs resume {job['metadata']['name']}"
    conditions = (workload.get("status") or {}).get("conditions") or ()
    for condition in conditions:
        if condition["type"] == "QuotaReserved" and condition["status"] == "False":
            what = "queue" if condition.get("reason") == "Inadmissible" else "quota of its queue"
            return f"waits for the {what} {queue}: {condition['message']}"
    return f"waits for its queue {queue} to admit it"


def find_workload(cluster: Cluster, job: Manifest) -> Manifest | None:
    """Returns the Kueue Workload of a job, or None before there is one."""
    uid = job["metadata"]["uid"]
    return next((found for found in cluster.list(WORKLOADS) if _is_owned(found, uid)), None)


def _pods(cluster: Cluster, waits: Sequence[Wait]) -> str:
    """Says what the first pod waits for that can tell, and how many wait."""
    told = next((wait for wait in waits if wait.text), None)
    first = told or waits[0]
    name = first.pod["metadata"]["name"]
    text = first.text
    if not text:
        text = _last_warning(_events_about(cluster, first.pod)) or "its container is being created"
    others = f" and {len(waits) - 1} more" if len(waits) > 1 else ""
    return f"{name}{others}: {text}"


def _wait(pod: Manifest) -> str:
    status = pod["status"]
    for condition in status.get("conditions") or ():
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return f"waits for a node: {condition.get('message', '')}"
    for own in (*(status.get("initContainerStatuses") or ()), container_status(pod)):
        waiting = own.get("state", {}).get("waiting") or {}
        reason, message = waiting.get("reason", ""), waiting.get("message", "")
        if reason in _IMAGE:
            return f"waits for its image: {reason}: {message}"
        if reason not in _STARTING:
            return f"{reason}: {message}".removesuffix(": ")
        if own.get("state", {}).get("running") and own["name"] != CONTAINER:
            return f"waits for its peers: {own['name']} runs"
    return ""


def _operator(cluster: Cluster, job: Manifest, *, missing: int) -> str:
    """Says why pods are not made, as by a ResourceQuota, or that they are about to be."""
    made = f"waits for {missing} pods to be made"
    if not job.get("status"):
        made += "; the training operator has not looked at it yet"
    return _last_warning(_events_about(cluster, job)) or made


def _last_warning(events: Iterable[Event]) -> str:
    warnings = [f"{event.reason}: {event.message}" for event in events if event.type == "Warning"]
    return warnings[-1] if warnings else ""


def _is_owned(obj: Manifest, uid: str) -> bool:
    return any(owner["uid"] == uid for owner in obj["metadata"].get("ownerReferences") or ())


def _ended(own: Manifest, when: str) -> Manifest:
    return (own.get(when) or {}).get("terminated") or {}
