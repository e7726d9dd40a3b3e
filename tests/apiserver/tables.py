"""The tables `kubectl get` prints: the server makes them, as a real one does."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import NamedTuple

from tests.apiserver.errors import Object

Cell = str | int


class Column(NamedTuple):
    """One column; `wide` ones are shown by `-o wide` alone."""

    name: str
    cell: Callable[[Object], Cell]
    wide: bool = False


def _name(obj: Object) -> str:
    return str(obj["metadata"]["name"])


def _ago(time: str | None) -> str:
    if not time:
        return "<unknown>"
    seconds = int((datetime.now(UTC) - datetime.fromisoformat(time)).total_seconds())
    for limit, unit, size in ((120, "s", 1), (7200, "m", 60), (172800, "h", 3600)):
        if seconds < limit:
            return f"{seconds // size}{unit}"
    return f"{seconds // 86400}d"


def _age(obj: Object) -> str:
    return _ago(obj["metadata"].get("creationTimestamp"))


def _phase(obj: Object) -> str:
    return str((obj.get("status") or {}).get("phase", ""))


def _containers(pod: Object) -> list[Object]:
    return pod["status"].get("containerStatuses") or []


def _ready(pod: Object) -> str:
    ready = sum(bool(status.get("ready")) for status in _containers(pod))
    return f"{ready}/{len(pod['spec']['containers'])}"


def _restarts(pod: Object) -> int:
    return sum(status.get("restartCount", 0) for status in _containers(pod))


def _pod_state(pod: Object) -> str:
    """The word under STATUS: a container's reason says more than the pod's phase."""
    if "deletionTimestamp" in pod["metadata"]:
        return "Terminating"
    for status in _containers(pod):
        for state in ("waiting", "terminated"):
            if reason := status["state"].get(state, {}).get("reason"):
                return str(reason)
    return str(pod["status"].get("reason") or _phase(pod))


def _job_state(job: Object) -> str:
    conditions = (job.get("status") or {}).get("conditions") or [{"type": ""}]
    return str(conditions[-1]["type"])


def _ports(service: Object) -> str:
    ports = service["spec"].get("ports") or []
    return ",".join(f"{port['port']}/{port.get('protocol', 'TCP')}" for port in ports) or "<none>"


def _involved(event: Object) -> str:
    about = event["involvedObject"]
    return f"{about.get('kind', '').lower()}/{about.get('name', '')}"


_GENERIC = (Column("Name", _name), Column("Age", _age))
_COLUMNS = {
    "Pod": (
        Column("Name", _name),
        Column("Ready", _ready),
        Column("Status", _pod_state),
        Column("Restarts", _restarts),
        Column("Age", _age),
        Column("IP", lambda pod: pod["status"].get("podIP", "<none>"), wide=True),
        Column("Node", lambda pod: pod["spec"].get("nodeName", "<none>"), wide=True),
    ),
    "PyTorchJob": (Column("Name", _name), Column("State", _job_state), Column("Age", _age)),
    "Namespace": (Column("Name", _name), Column("Status", _phase), Column("Age", _age)),
    "PersistentVolumeClaim": (Column("Name", _name), Column("Status", _phase), Column("Age", _age)),
    "ConfigMap": (
        Column("Name", _name),
        Column("Data", lambda config_map: len(config_map.get("data") or {})),
        Column("Age", _age),
    ),
    "Service": (
        Column("Name", _name),
        Column("Cluster-IP", lambda service: service["spec"].get("clusterIP", "<none>")),
        Column("Port(s)", _ports),
        Column("Age", _age),
    ),
    "Event": (
        Column("Last Seen", lambda event: _ago(event.get("lastTimestamp"))),
        Column("Type", lambda event: event.get("type", "")),
        Column("Reason", lambda event: event.get("reason", "")),
        Column("Object", _involved),
        Column("Message", lambda event: event.get("message", "")),
    ),
}


def table(kind: str, objects: Iterable[Object], *, metadata: Object, whole: bool) -> Object:
    """Returns a Table with a row per object, which carries the `whole` object or its metadata."""
    columns = _COLUMNS.get(kind, _GENERIC)
    return {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": metadata,
        "columnDefinitions": [
            {
                "name": column.name,
                "type": "string",
                "format": "name" if column.name == "Name" else "",
                "description": "",
                "priority": int(column.wide),
            }
            for column in columns
        ],
        "rows": [
            {
                "cells": [column.cell(obj) for column in columns],
                "object": obj if whole else _partial(obj),
            }
            for obj in objects
        ],
    }


def _partial(obj: Object) -> Object:
    return {
        "kind": "PartialObjectMetadata",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": obj["metadata"],
    }
