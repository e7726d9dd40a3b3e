"""The pods and services the training operator makes of a PyTorchJob: names, labels, environment.

The operator meant is v1, release 1.9: `common/pod.go`, `pytorch/envvar.go`, `pytorch/elastic.go`.
Left out is its init container, which waits until the master's host name resolves.
"""

from __future__ import annotations

import copy

from florence.launch.manifest import (
    API_VERSION,
    KIND,
    PORT_NAME,
    Manifest,
    pytorch_container,
    replicas,
)

LABEL = "training.kubeflow.org/"


def pod_name(job_name: str, kind: str, index: int) -> str:
    """Returns the name of a pod and of its service, `{job}-{master|worker}-{index}`."""
    return f"{job_name}-{kind.lower()}-{index}"


def pod_manifest(job: Manifest, kind: str, index: int) -> Manifest:
    """Returns the pod the operator creates for replica `index` of type `kind`.

    The job has its defaults applied.
    """
    replica = job["spec"]["pytorchReplicaSpecs"][kind]
    template = copy.deepcopy(replica["template"])
    metadata = template.get("metadata") or {}
    metadata["name"] = pod_name(job["metadata"]["name"], kind, index)
    metadata["labels"] = {**metadata.get("labels", {}), **_labels(job, kind, index)}
    if _is_master(job, kind, index):
        metadata["labels"][LABEL + "job-role"] = "master"
    metadata |= _ownership(job)
    policy = replica["restartPolicy"]
    template["spec"]["restartPolicy"] = "Never" if policy == "ExitCode" else policy
    for container in template["spec"]["containers"]:
        container["env"] = [*container.get("env", []), *operator_environment(job, kind, index)]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}


def service_manifest(job: Manifest, kind: str, index: int) -> Manifest:
    """Returns the headless service through which the other pods reach this one by name."""
    labels = _labels(job, kind, index)
    template = job["spec"]["pytorchReplicaSpecs"][kind]["template"]
    ports = [
        {"name": port["name"], "port": port["containerPort"]}
        for port in pytorch_container(template)["ports"]
    ]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": pod_name(job["metadata"]["name"], kind, index),
            "labels": labels,
            **_ownership(job),
        },
        "spec": {"clusterIP": "None", "selector": labels, "ports": ports},
    }


def operator_environment(job: Manifest, kind: str, index: int) -> list[dict[str, str]]:
    """Returns the variables the operator appends to every container of a pod.

    RANK counts nodes but WORLD_SIZE counts processes: only torchrun, which reads the PET_ ones,
    makes sense of them.
    """
    spec = job["spec"]
    total = sum(replica["replicas"] for _, replica in replicas(job))
    per_node = spec.get("nprocPerNode")
    variables = {"PYTHONUNBUFFERED": "1"}
    if "Master" in spec["pytorchReplicaSpecs"]:
        address, port = pod_name(job["metadata"]["name"], "Master", 0), str(_port(job, "Master"))
        rank = str(index if kind == "Master" else index + 1)
        factor = int(per_node) if per_node is not None and per_node.isdecimal() else 1
        variables |= {
            "MASTER_PORT": port,
            "PET_MASTER_PORT": port,
            "MASTER_ADDR": address,
            "PET_MASTER_ADDR": address,
            "WORLD_SIZE": str(total * factor),
            "RANK": rank,
            "PET_NODE_RANK": rank,
        }
    if per_node is not None:
        variables["PET_NPROC_PER_NODE"] = per_node
    elastic = spec.get("elasticPolicy")
    variables |= {"PET_NNODES": str(total)} if elastic is None else _elastic(job, elastic)
    return [{"name": name, "value": value} for name, value in variables.items()]


def _elastic(job: Manifest, elastic: Manifest) -> dict[str, str]:
    host = elastic.get("rdzvHost") or pod_name(job["metadata"]["name"], "Worker", 0)
    port = elastic.get("rdzvPort") or _port(job, "Worker")
    variables = {
        "PET_RDZV_ENDPOINT": f"{host}:{port}",
        "PET_RDZV_BACKEND": elastic.get("rdzvBackend") or "c10d",
        "PET_NNODES": f"{elastic['minReplicas']}:{elastic['maxReplicas']}",
    }
    for variable, field in (
        ("PET_MAX_RESTARTS", "maxRestarts"),
        ("PET_NPROC_PER_NODE", "nProcPerNode"),
        ("PET_RDZV_ID", "rdzvId"),
    ):
        if elastic.get(field) is not None:
            variables[variable] = str(elastic[field])
    if elastic.get("rdzvConf"):
        pairs = (f"{conf['key']}={conf['value']}" for conf in elastic["rdzvConf"])
        variables["PET_RDZV_CONF"] = ",".join(pairs)
    if elastic.get("standalone"):
        variables["PET_STANDALONE"] = ""
    return variables


def _port(job: Manifest, kind: str) -> int:
    ports = pytorch_container(job["spec"]["pytorchReplicaSpecs"][kind]["template"])["ports"]
    return next(int(port["containerPort"]) for port in ports if port.get("name") == PORT_NAME)


def job_labels(job_name: str) -> dict[str, str]:
    """Returns the labels that select everything the operator made for a job."""
    return {LABEL + "operator-name": "pytorchjob-controller", LABEL + "job-name": job_name}


def _labels(job: Manifest, kind: str, index: int) -> dict[str, str]:
    return job_labels(job["metadata"]["name"]) | {
        LABEL + "replica-type": kind.lower(),
        LABEL + "replica-index": str(index),
    }


def _is_master(job: Manifest, kind: str, index: int) -> bool:
    if "Master" in job["spec"]["pytorchReplicaSpecs"]:
        return kind == "Master"
    return index == 0


def _ownership(job: Manifest) -> Manifest:
    metadata = job["metadata"]
    owner = {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "name": metadata["name"],
        "uid": metadata["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }
    return {"namespace": metadata["namespace"], "ownerReferences": [owner]}
