"""What the server itself writes into objects: metadata, initial status, and what may not change."""

from __future__ import annotations

import random
import uuid
from datetime import UTC, datetime

from tests.apiserver.errors import Object, conflict, invalid
from tests.apiserver.resources import Resource

_SERVER_OWNED = ("uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds")
_SUFFIX_LETTERS = "bcdfghjklmnpqrstvwxz2456789"
_INITIAL_PHASE = {"Namespace": "Active", "PersistentVolumeClaim": "Pending"}


def timestamp() -> str:
    """Returns the present time as metadata carries it, in whole seconds."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def named(obj: Object, namespace: str) -> Object:
    """Returns a new object with its namespace, and a name where generateName asks for one."""
    metadata = dict(obj.get("metadata") or {})
    if not metadata.get("name") and metadata.get("generateName"):
        suffix = "".join(random.choices(_SUFFIX_LETTERS, k=5))
        metadata["name"] = metadata["generateName"] + suffix
    if namespace:
        metadata["namespace"] = namespace
    return {**obj, "metadata": metadata}


def initialise(resource: Resource, obj: Object) -> Object:
    """Returns a new object as it is first stored: identity, time, generation, initial status."""
    metadata = dict(obj["metadata"])
    for key in (*_SERVER_OWNED, "resourceVersion", "managedFields", "selfLink"):
        metadata.pop(key, None)
    metadata |= {"uid": str(uuid.uuid4()), "creationTimestamp": timestamp()}
    if resource.generation:
        metadata["generation"] = 1
    created = {**obj, "metadata": metadata}
    if resource.status:
        created.pop("status", None)
    if resource.kind == "Pod":
        _default_pod(created)
    elif resource.kind in _INITIAL_PHASE:
        created["status"] = {"phase": _INITIAL_PHASE[resource.kind]}
    return created


def _default_pod(pod: Object) -> None:
    defaults = {
        "restartPolicy": "Always",
        "terminationGracePeriodSeconds": 30,
        "dnsPolicy": "ClusterFirst",
        "schedulerName": "default-scheduler",
    }
    pod["spec"] = defaults | pod["spec"]
    pod["status"] = {"phase": "Pending", "qosClass": "BestEffort"}


def updated(
    resource: Resource, current: Object, proposed: Object, *, status_only: bool = False
) -> Object:
    """Returns what an update stores; ApiError 409 or 422 if it may not be.

    Through the main endpoint the status stays as it was, through `/status` all the rest does.
    """
    name = current["metadata"]["name"]
    metadata = dict(proposed.get("metadata") or {})
    _check_identity(resource, current["metadata"], metadata)
    if status_only:
        result = {**current}
        result.pop("status", None)
        return result | {key: proposed[key] for key in ("status",) if key in proposed}
    for key in (*_SERVER_OWNED, "name", "namespace", "resourceVersion", "generation"):
        metadata.pop(key, None)
        if key in current["metadata"]:
            metadata[key] = current["metadata"][key]
    result = {**proposed, "metadata": metadata}
    if resource.status:
        result.pop("status", None)
        if "status" in current:
            result["status"] = current["status"]
    if resource.kind == "Pod" and _fixed(current) != _fixed(result):
        cause = "spec: Forbidden: pod updates may not change fields other than images"
        raise invalid(resource.kind, name, [cause])
    if resource.generation and _counted(current) != _counted(result):
        metadata["generation"] = current["metadata"].get("generation", 1) + 1
    return result


def _check_identity(resource: Resource, current: Object, proposed: Object) -> None:
    """Raises 409 for an outdated resourceVersion or another object's uid, 422 for a new name."""
    name = current["name"]
    if proposed.get("resourceVersion", current["resourceVersion"]) != current["resourceVersion"]:
        why = "the object has been modified; please apply your changes to the latest version"
        raise conflict(resource.qualified, name, f"{why} and try again")
    if proposed.get("uid", current["uid"]) != current["uid"]:
        why = f"Precondition failed: UID in precondition: {proposed['uid']}"
        raise conflict(resource.qualified, name, f"{why}, UID in object meta: {current['uid']}")
    if proposed.get("name", name) != name:
        cause = f'metadata.name: Invalid value: "{proposed["name"]}": field is immutable'
        raise invalid(resource.kind, name, [cause])


def _fixed(pod: Object) -> Object:
    """The part of a pod's spec that may not change; binding it to a node is the scheduler's."""
    spec = dict(pod["spec"])
    spec.pop("nodeName", None)
    spec.pop("tolerations", None)
    for group in ("containers", "initContainers"):
        spec[group] = [{**container, "image": ""} for container in spec.get(group) or ()]
    return spec


def _counted(obj: Object) -> Object:
    return {key: value for key, value in obj.items() if key not in ("metadata", "status")}


def event(
    about: Object, *, type: str, reason: str, message: str, component: str = "kubelet"
) -> Object:
    """Returns an Event about an object, to be created in that object's namespace."""
    metadata, now = about["metadata"], timestamp()
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"generateName": f"{metadata['name']}."},
        "involvedObject": {
            "apiVersion": about["apiVersion"],
            "kind": about["kind"],
            **{key: metadata[key] for key in ("name", "namespace", "uid", "resourceVersion")},
        },
        "type": type,
        "reason": reason,
        "message": message,
        "count": 1,
        "firstTimestamp": now,
        "lastTimestamp": now,
        "source": {"component": component},
        "reportingComponent": component,
        "reportingInstance": "",
    }
