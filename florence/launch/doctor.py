"""What `florence doctor` looks at: is everything there that a job needs, and what to do if not."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from florence.launch.kubernetes_resources import (
    CLAIMS,
    CONFIG_MAPS,
    EVENTS,
    JOBS,
    PODS,
    QUEUES,
    WORKLOADS,
)
from florence.launch.pytorchjob import TRACKING_URI
from florence.launch.status import QUEUE_LABEL
from florence.util.errors import FlorenceError

if TYPE_CHECKING:
    from florence.launch.kubernetes_client import Cluster

_SQLITE = "sqlite:///"
_LEAST_PYTHON = (3, 11)
_LEAST_DISK = 5 * 2**30
_ANSWER_SECONDS = 5.0


class Finding(NamedTuple):
    """One thing looked at: what was found, and what to do about it; no remedy if it is well."""

    name: str
    detail: str
    remedy: str = ""

    @property
    def ok(self) -> bool:
        """Whether there is nothing to do."""
        return not self.remedy


def examine_machine(*, runs_dir: Path, tracking_uri: str) -> Iterator[Finding]:
    """Looks at what jobs on this machine need."""
    version = ".".join(map(str, sys.version_info[:3]))
    least = ".".join(map(str, _LEAST_PYTHON))
    old = sys.version_info < _LEAST_PYTHON
    yield Finding("python", version, f"install Python {least} or newer" if old else "")
    compiler = shutil.which("g++")
    remedy = "" if compiler else "DeepSpeed compiles its CPU collectives: apt-get install g++"
    yield Finding("g++", compiler or "not found", remedy)
    for package in ("torch", "deepspeed"):
        yield _package(package)
    yield _disk(runs_dir)
    yield _store(tracking_uri)


def examine_cluster(
    namespace: str, *, queue: str | None, tracking_uri: str, kubeconfig: Path | None = None
) -> Iterator[Finding]:
    """Looks at what jobs in a namespace of a cluster need; ends early if nothing answers."""
    from florence.launch.kubernetes_client import Cluster  # a second of imports

    try:
        cluster = Cluster(namespace, kubeconfig=kubeconfig)
        version = cluster.version()
    except FlorenceError as error:
        yield Finding("cluster", str(error), "set KUBECONFIG, and try: kubectl version")
        return
    yield Finding("cluster", f"Kubernetes {version} at {cluster.address}, namespace {namespace}")
    uri = TRACKING_URI if tracking_uri.startswith(_SQLITE) else tracking_uri
    checks: dict[str, Callable[[], Finding]] = {
        "operator": lambda: _operator(cluster),
        "permissions": lambda: _permissions(cluster, queued=queue is not None),
        "queue": lambda: _queue(cluster, queue),
        "mlflow": lambda: _mlflow(cluster, uri),
        "storage": lambda: _claims(cluster),
    }
    for name, check in checks.items():
        try:
            yield check()
        except FlorenceError as error:
            yield Finding(name, str(error), "mend what it says, then look again")


def _operator(cluster: Cluster) -> Finding:
    if cluster.serves(JOBS):
        return Finding("operator", f"{JOBS.qualified} {JOBS.version}")
    remedy = "install the Kubeflow training operator v1, release 1.9 (k8s/operator); v2 is another"
    return Finding("operator", f"no {JOBS.qualified} {JOBS.version}", remedy)


def _permissions(cluster: Cluster, *, queued: bool) -> Finding:
    needed = [
        *((verb, JOBS, "") for verb in ("create", "get", "list", "patch", "delete")),
        *((verb, CONFIG_MAPS, "") for verb in ("create", "get", "patch", "delete")),
        *((verb, PODS, "") for verb in ("get", "list")),
        ("get", PODS, "log"),
        ("list", EVENTS, ""),
        *((verb, WORKLOADS, "") for verb in ("list", "patch") if queued),
    ]
    missing = [
        f"{verb} {resource.qualified}" + (f"/{sub}" if sub else "")
        for verb, resource, sub in needed
        if not cluster.allows(verb, resource, subresource=sub)
    ]
    if not missing:
        return Finding("permissions", f"all {len(needed)} needed")
    remedy = f"ask for the Role florence-submitter (k8s/base) in namespace {cluster.namespace}"
    return Finding("permissions", f"may not: {', '.join(missing)}", remedy)


def _queue(cluster: Cluster, queue: str | None) -> Finding:
    if queue is None:
        return Finding("queue", "none: cluster.queue (FLORENCE_CLUSTER__QUEUE) is not set")
    found = cluster.find(QUEUES, queue)
    if found is None:
        names = ", ".join(item["metadata"]["name"] for item in cluster.list(QUEUES)) or "none"
        return Finding("queue", f"no LocalQueue {queue}; there are: {names}", "name one of them")
    for condition in (found.get("status") or {}).get("conditions") or ():
        if condition["type"] == "Active" and condition["status"] == "False":
            remedy = "ask who runs Kueue here about its ClusterQueue"
            return Finding("queue", f"{queue} admits nothing: {condition['message']}", remedy)
    return Finding("queue", f"{queue} ({QUEUE_LABEL})")


def _mlflow(cluster: Cluster, uri: str) -> Finding:
    """Asks a service of the cluster through the API server, any other address directly."""
    inside = re.fullmatch(r"http://([-a-z0-9]+)\.([-a-z0-9]+)\.svc[^:/]*:(\d+)/?", uri)
    if not inside:
        return _store(uri)
    service, namespace, port = inside.groups()
    if cluster.reaches_service(service, namespace=namespace, port=int(port), path="health"):
        return Finding("mlflow", uri)
    remedy = "kubectl apply -k k8s/overlays/dev, or set tracking.uri to another server"
    return Finding("mlflow", f"{uri} does not answer", remedy)


def _claims(cluster: Cluster) -> Finding:
    phases = {
        claim["metadata"]["name"]: claim["status"].get("phase", "Pending")
        for claim in cluster.list(CLAIMS)
    }
    detail = ", ".join(f"{name} is {phase}" for name, phase in phases.items())
    if phases and all(phase == "Bound" for phase in phases.values()):
        return Finding("storage", detail)
    remedy = "kubectl apply -k k8s/overlays/dev, and: kubectl describe persistentvolumeclaims"
    return Finding("storage", detail or "no PersistentVolumeClaims", remedy)


def _package(name: str) -> Finding:
    try:
        return Finding(name, importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return Finding(name, "not installed", "pip install 'florence[train]' (make setup)")


def _disk(runs_dir: Path) -> Finding:
    folder = _existing(runs_dir.absolute())
    free = shutil.disk_usage(folder).free
    detail = f"{free / 2**30:.0f} GiB free in {folder}"
    if not os.access(folder, os.W_OK):
        return Finding("disk", f"{folder} is not writable", "set FLORENCE_RUNS_DIR to a folder")
    remedy = f"make room for checkpoints: {_LEAST_DISK >> 30} GiB or more"
    return Finding("disk", detail, remedy if free < _LEAST_DISK else "")


def _store(uri: str) -> Finding:
    if uri.startswith(_SQLITE):
        path = Path(uri.removeprefix(_SQLITE)).absolute()
        writable = os.access(_existing(path), os.W_OK)
        remedy = "" if writable else "set FLORENCE_TRACKING__URI to a file that can be written"
        return Finding("mlflow", f"{path}" + ("" if writable else " is not writable"), remedy)
    try:
        urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=_ANSWER_SECONDS).close()
    except urllib.error.HTTPError as error:
        if error.code not in (401, 403):  # it answers; the job has the password
            return Finding("mlflow", f"{uri} answers {error}", "is it an MLflow server?")
    except OSError as error:
        reason = getattr(error, "reason", error)
        return Finding("mlflow", f"{uri} does not answer: {reason}", "start it, or correct the uri")
    return Finding("mlflow", uri)


def _existing(path: Path) -> Path:
    """Returns the path, or the nearest folder above it that exists."""
    return next(folder for folder in (path, *path.parents) if folder.exists())
