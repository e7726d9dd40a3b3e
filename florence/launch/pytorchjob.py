"""Renders a run to the one PyTorchJob and ConfigMap that both backends take."""

from __future__ import annotations

from florence.config.cluster import ClusterConfig
from florence.config.run import BaseRun
from florence.launch.manifest import API_VERSION, CONTAINER, KIND, JobManifest, Manifest, to_yaml
from florence.launch.status import ANNOTATION_FINGERPRINT, LABEL_KIND, LABEL_RUN

RUN_FILE = "run.yaml"
CONFIG_DIR = "/etc/florence"
GPU_RESOURCE = "nvidia.com/gpu"
_GRACE_SECONDS = 300  # more than a checkpoint takes
_USER_ID = 1000


def render(run: BaseRun) -> JobManifest:
    """Returns the manifest of a run: a pure function, equal runs give equal manifests."""
    metadata = {
        "name": run.job_name,
        "namespace": run.cluster.namespace,
        "labels": _labels(run),
        "annotations": {ANNOTATION_FINGERPRINT: run.fingerprint},
    }
    config_map = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata,
        "data": {RUN_FILE: to_yaml([run.model_dump(mode="json")])},
    }
    job = {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": metadata,
        "spec": {
            "nprocPerNode": str(run.cluster.processes_per_node),
            "runPolicy": {"cleanPodPolicy": "Running"},
            "pytorchReplicaSpecs": _replicas(run),
        },
    }
    return JobManifest(job, (config_map,))


def _labels(run: BaseRun) -> dict[str, str]:
    kind: str = run.model_dump()["kind"]
    return {"app.kubernetes.io/name": "florence", LABEL_RUN: run.name, LABEL_KIND: kind}


def _replicas(run: BaseRun) -> Manifest:
    # Every replica needs its own counts, yet all pods are alike: rank 0 is only a number.
    counts = {"Master": 1, "Worker": run.cluster.nodes - 1}
    return {
        kind: {"replicas": count, "restartPolicy": "ExitCode", "template": _template(run)}
        for kind, count in counts.items()
        if count
    }


def _template(run: BaseRun) -> Manifest:
    volumes = [
        {"name": "run", "configMap": {"name": run.job_name}},
        {"name": "shm", "emptyDir": {"medium": "Memory"}},
    ]
    return {
        "metadata": {
            "labels": _labels(run),
            "annotations": {ANNOTATION_FINGERPRINT: run.fingerprint},
        },
        "spec": {
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": _GRACE_SECONDS,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": _USER_ID,
                "runAsGroup": _USER_ID,
                "fsGroup": _USER_ID,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [_container(run.cluster)],
            "volumes": volumes,
        },
    }


def _container(cluster: ClusterConfig) -> Manifest:
    resources = {"cpu": str(cluster.resources.cpu), "memory": cluster.resources.memory}
    if cluster.resources.gpu:
        resources[GPU_RESOURCE] = str(cluster.resources.gpu)
    threads = max(1, cluster.resources.cpu // cluster.processes_per_node)
    return {
        "name": CONTAINER,
        "image": cluster.image,
        "command": ["python", "-m", "florence.launcher", f"{CONFIG_DIR}/{RUN_FILE}"],
        "env": [{"name": "OMP_NUM_THREADS", "value": str(threads)}],
        "resources": {"limits": resources, "requests": resources},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            {"name": "run", "mountPath": CONFIG_DIR, "readOnly": True},
            {"name": "shm", "mountPath": "/dev/shm"},
        ],
    }
