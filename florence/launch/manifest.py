"""PyTorchJob manifests: reading, writing, the training operator's defaults and its webhook's rules.

The operator meant is v1, release 1.9: `pytorch_defaults.go` and `pytorchjob_webhook.go`.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import yaml

from florence.util.errors import UserError, nearest

Manifest = dict[str, Any]
"""A Kubernetes object, as its API would return it."""

API_VERSION = "kubeflow.org/v1"
KIND = "PyTorchJob"
CONTAINER = "pytorch"
PORT_NAME = "pytorchjob-port"
DEFAULT_PORT = 23456
REPLICAS = ("Master", "Worker")

_RESTART_POLICIES = ("Always", "ExitCode", "Never", "OnFailure")
_CLEAN_POD_POLICIES = ("All", "None", "Running")
_MANAGERS = ("kubeflow.org/training-operator", "kueue.x-k8s.io/multikueue")


class JobManifest(NamedTuple):
    """One PyTorchJob and the ConfigMaps it mounts."""

    job: Manifest
    config_maps: tuple[Manifest, ...]

    @property
    def documents(self) -> tuple[Manifest, ...]:
        """The objects in the order they have to be created."""
        return (*self.config_maps, self.job)


class _Dumper(yaml.SafeDumper):
    """Writes no anchors, and texts of several lines as blocks."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def text(self, value: str) -> yaml.ScalarNode:
        style = "|" if "\n" in value else None
        return self.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(str, _Dumper.text)


def to_yaml(documents: Iterable[Manifest]) -> str:
    """Returns the documents as YAML text; equal documents give equal texts."""
    return yaml.dump_all(documents, Dumper=_Dumper, sort_keys=False, width=10**6)


def read_manifest(text: str, *, source: str) -> JobManifest:
    """Reads YAML documents; `source` names them in the UserError a malformed text raises."""
    try:
        documents = [document for document in yaml.safe_load_all(text) if document is not None]
    except yaml.YAMLError as error:
        raise UserError(f"{source} is not YAML: {' '.join(str(error).split())}") from error
    return job_manifest(documents, source=source)


def job_manifest(documents: Iterable[Manifest], *, source: str = "the manifest") -> JobManifest:
    """Sorts documents into one PyTorchJob and its ConfigMaps; UserError for anything else."""
    jobs: list[Manifest] = []
    config_maps: list[Manifest] = []
    for document in documents:
        kind = document.get("kind") if isinstance(document, dict) else document
        if kind not in (KIND, "ConfigMap"):
            raise UserError(f"{source} has a document of kind {kind!r}; allowed: {KIND}, ConfigMap")
        (jobs if kind == KIND else config_maps).append(document)
    if len(jobs) != 1:
        raise UserError(f"{source} has {len(jobs)} documents of kind {KIND}; allowed: one")
    return JobManifest(jobs[0], tuple(config_maps))


def replicas(job: Manifest) -> Iterator[tuple[str, Manifest]]:
    """Yields (type, spec) of the job's replicas, the Master first."""
    specs = job["spec"]["pytorchReplicaSpecs"]
    return ((kind, specs[kind]) for kind in REPLICAS if kind in specs)


def pytorch_container(template: Manifest) -> Manifest:
    """Returns the container called `pytorch`, the one the operator looks at."""
    container: Manifest = next(c for c in template["spec"]["containers"] if c["name"] == CONTAINER)
    return container


def apply_defaults(job: Manifest) -> Manifest:
    """Returns a copy of a valid job with the defaults the operator fills in before acting."""
    job = copy.deepcopy(job)
    spec = job["spec"]
    spec.setdefault("runPolicy", {}).setdefault("cleanPodPolicy", "None")
    elastic = spec.get("elasticPolicy")
    if elastic is None or elastic.get("nProcPerNode") is None:
        spec.setdefault("nprocPerNode", "auto")
    for _, replica in replicas(job):
        replica.setdefault("replicas", 1)
        replica.setdefault("restartPolicy", "OnFailure")
        ports = pytorch_container(replica["template"]).setdefault("ports", [])
        if not any(port.get("name") == PORT_NAME for port in ports):
            ports.append({"name": PORT_NAME, "containerPort": DEFAULT_PORT})
    if elastic is not None:
        workers = spec["pytorchReplicaSpecs"]["Worker"]["replicas"]
        least, most = elastic.get("minReplicas"), elastic.get("maxReplicas")
        elastic["minReplicas"] = least or most or workers
        elastic["maxReplicas"] = most or least or workers
    return job


def validate(job: Manifest) -> None:
    """Raises a UserError naming the field for a job that the operator's webhook refuses."""
    _one_of("apiVersion", job.get("apiVersion"), (API_VERSION,))
    name = (job.get("metadata") or {}).get("name")
    if not isinstance(name, str) or not re.fullmatch(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", name):
        raise UserError(
            f"metadata.name = {name!r}; allowed: up to 63 of a-z, 0-9 and -, first a letter, "
            "last not -"
        )
    spec = job.get("spec") or {}
    specs = spec.get("pytorchReplicaSpecs") or {}
    if not specs:
        raise UserError("spec.pytorchReplicaSpecs is missing; allowed: Master, Worker or both")
    policy = spec.get("runPolicy") or {}
    clean_pods = policy.get("cleanPodPolicy", "None")
    _one_of("spec.runPolicy.cleanPodPolicy", clean_pods, _CLEAN_POD_POLICIES)
    _one_of("spec.runPolicy.managedBy", policy.get("managedBy", _MANAGERS[0]), _MANAGERS)
    _validate_elastic(spec, specs)
    for kind, replica in specs.items():
        _validate_replica(kind, replica)


def _validate_elastic(spec: Manifest, specs: Manifest) -> None:
    elastic = spec.get("elasticPolicy")
    if elastic is None:
        return
    if "Worker" not in specs:
        raise UserError(
            "spec.elasticPolicy needs spec.pytorchReplicaSpecs.Worker, which is missing"
        )
    if elastic.get("nProcPerNode") is not None and spec.get("nprocPerNode") is not None:
        raise UserError(
            "spec.elasticPolicy.nProcPerNode and spec.nprocPerNode are both set; one may"
        )


def _validate_replica(kind: str, replica: Manifest) -> None:
    if kind not in REPLICAS:
        raise UserError(f"spec.pytorchReplicaSpecs.{kind} is unknown{nearest(kind, REPLICAS)}")
    path = f"spec.pytorchReplicaSpecs.{kind}"
    count = replica.get("replicas")
    if kind == "Master" and count != 1:
        raise UserError(f"{path}.replicas = {count}; allowed: 1")
    if kind == "Worker" and count is not None and count < 1:
        raise UserError(f"{path}.replicas = {count}; allowed: 1 or more")
    restart = replica.get("restartPolicy", "OnFailure")
    _one_of(f"{path}.restartPolicy", restart, _RESTART_POLICIES)
    containers = ((replica.get("template") or {}).get("spec") or {}).get("containers") or []
    path = f"{path}.template.spec.containers"
    for index, container in enumerate(containers):
        if not container.get("image"):
            raise UserError(f"{path}[{index}].image is missing")
    if not any(container.get("name") == CONTAINER for container in containers):
        raise UserError(f"{path} has no container named {CONTAINER!r}, the one the operator runs")


def _one_of(path: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise UserError(f"{path} = {value!r}; allowed: {', '.join(allowed)}")
