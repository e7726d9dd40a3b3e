"""Renders a run to the one PyTorchJob and ConfigMap that both backends take.

What a job of this size needs in production and is not set here, with the reason:

- nodeSelector, tolerations: a site's; Kueue copies them from the flavor it admits the job to
  (k8s/components/gpu-pool, spot).
- NCCL's variables and the region: a site's; the ConfigMap `florence-site`.
- elasticPolicy: a world of fixed size gives a reproducible batch and schedule, and an elastic job
  has succeeded for the operator as soon as ANY worker has.
- schedulingPolicy: Kueue admits all pods or none; a second gang scheduler would compete with it,
  and the Python client cannot read a job that has minResources.
- managedBy: cannot be changed later; MultiKueue sets it itself.
- backoffLimit: under ExitCode it counts nothing; a budget has to be the launcher's (not there yet).
- pod affinity: the default scheduler places pod after pod and may wedge two large jobs halfway;
  Kueue's topology annotation places them as one.
- hostNetwork, hostPath, IPC_LOCK: refused by Pod Security "restricted" (k8s/README.md).
- a PodDisruptionBudget: could only block a drain, which the do-not-evict annotations do as well.
- ports and probes: the operator adds its own port; a probe would restart one rank in place while
  the others wait for it; hangs are for the launcher to find (not there yet).
"""

from __future__ import annotations

import posixpath
import re

from florence.config.cluster import ClusterConfig, ResourcesConfig
from florence.config.run import BaseRun, TrainRun
from florence.launch.manifest import API_VERSION, CONTAINER, KIND, JobManifest, Manifest, to_yaml
from florence.launch.status import ANNOTATION_FINGERPRINT, LABEL_KIND, LABEL_RUN, QUEUE_LABEL

RUN_FILE = "run.yaml"
CONFIG_DIR = "/etc/florence"
WORKING_DIR = "/workspace"
"""The image's: relative paths of a job file mean the same here and on the submitter's machine."""
TRACKING_URI = "http://mlflow.florence-platform.svc:5000"
"""The platform's MLflow server (k8s/base/mlflow)."""
GPU_RESOURCE = "nvidia.com/gpu"
RDMA_RESOURCE = "rdma/ib"
TOPOLOGY_ANNOTATION = "kueue.x-k8s.io/podset-preferred-topology"

_CLAIMS = {"runs": "florence-runs", "data": "florence-data"}
_SITE = "florence-site"
_SECRETS = ("florence-mlflow", "florence-storage")
_SERVICE_ACCOUNT = "florence-job"
_USER_ID = 1000
_GRACE_SECONDS = 300  # a checkpoint of the largest model and its upload take less
_TTL_SECONDS = 7 * 24 * 3600  # its log is gone with it; what lasts is in MLflow
_SHM_SHARE = 4  # a quarter: batches in flight between loader processes, and NCCL's buffers
_MEBIBYTES = {"Mi": 1, "Gi": 1024, "Ti": 1024**2}
# One evicted pod stops every GPU of its job, so nobody may consolidate or drain it away.
_DO_NOT_EVICT = {
    "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
    "karpenter.sh/do-not-disrupt": "true",
}


def for_cluster(run: BaseRun) -> BaseRun:
    """Returns the run as a cluster can run it: one that tracks into a local file uses the server.

    A file would lie on the read-only root of a pod, or be shared by nodes, which SQLite forbids.
    """
    if not run.tracking.uri.startswith("sqlite:"):
        return run
    return run.model_copy(
        update={"tracking": run.tracking.model_copy(update={"uri": TRACKING_URI})}
    )


def render(run: BaseRun) -> JobManifest:
    """Returns the manifest of a run: a pure function, equal runs give equal manifests."""
    metadata: Manifest = {
        "name": run.job_name,
        "namespace": run.cluster.namespace,
        "labels": _labels(run),
        "annotations": {ANNOTATION_FINGERPRINT: run.fingerprint},
    }
    config_map = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata,
        "immutable": True,  # and so no kubelet of 64 keeps watching it
        "data": {RUN_FILE: to_yaml([run.model_dump(mode="json")])},
    }
    queue = {QUEUE_LABEL: run.cluster.queue} if run.cluster.queue else {}
    job = {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {**metadata, "labels": {**metadata["labels"], **queue}},
        "spec": {
            "nprocPerNode": str(run.cluster.processes_per_node),
            "runPolicy": _run_policy(run.cluster),
            "pytorchReplicaSpecs": _replicas(run),
        },
    }
    return JobManifest(job, (config_map,))


def _labels(run: BaseRun) -> dict[str, str]:
    kind: str = run.model_dump()["kind"]
    return {"app.kubernetes.io/name": "florence", LABEL_RUN: run.name, LABEL_KIND: kind}


def _run_policy(cluster: ClusterConfig) -> Manifest:
    policy: Manifest = {
        "cleanPodPolicy": "Running",  # the operator's default keeps the GPUs of a failed job
        "ttlSecondsAfterFinished": _TTL_SECONDS,
    }
    if cluster.deadline_hours:
        # The operator only looks when something happens, so a job that hangs may pass it.
        policy["activeDeadlineSeconds"] = round(cluster.deadline_hours * 3600)
    if cluster.queue:
        policy["suspend"] = True  # until Kueue admits the job
    return policy


def _replicas(run: BaseRun) -> Manifest:
    # Every replica needs its own counts, yet all pods are alike: rank 0 is only a number.
    # ExitCode: the launcher's codes tell a lost machine from bad input, torchrun's do not.
    counts = {"Master": 1, "Worker": run.cluster.nodes - 1}
    return {
        kind: {"replicas": count, "restartPolicy": "ExitCode", "template": _template(run)}
        for kind, count in counts.items()
        if count
    }


def _template(run: BaseRun) -> Manifest:
    cluster = run.cluster
    volumes = _volumes(run)
    topology = {TOPOLOGY_ANNOTATION: cluster.topology} if cluster.topology else {}
    priority = {"priorityClassName": cluster.priority} if cluster.priority else {}
    return {
        "metadata": {
            "labels": _labels(run),
            "annotations": {ANNOTATION_FINGERPRINT: run.fingerprint, **_DO_NOT_EVICT, **topology},
        },
        "spec": {
            "serviceAccountName": _SERVICE_ACCOUNT,
            "automountServiceAccountToken": False,
            # Variables of services called florence-* would look like misspelt settings.
            "enableServiceLinks": False,
            **priority,
            "terminationGracePeriodSeconds": _GRACE_SECONDS,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": _USER_ID,
                "runAsGroup": _USER_ID,
                "fsGroup": _USER_ID,
                # Otherwise each of 64 pods would change the owner of millions of shards.
                "fsGroupChangePolicy": "OnRootMismatch",
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [_container(cluster, mounts=[mount for mount, _ in volumes])],
            "volumes": [volume for _, volume in volumes],
        },
    }


def _volumes(run: BaseRun) -> list[tuple[Manifest, Manifest]]:
    """Returns the pod's volumes as pairs of mount and volume."""
    shm = {"medium": "Memory", "sizeLimit": _shm_size(run.cluster.resources)}
    config_map = {"name": run.job_name}
    volumes = [
        _volume("run", CONFIG_DIR, {"configMap": config_map}, read_only=True),
        _volume("shm", "/dev/shm", {"emptyDir": shm}),  # 64 MB as it comes: loaders die of SIGBUS
        _volume("tmp", "/tmp", {"emptyDir": {}}),
    ]
    for folder, claim in _CLAIMS.items():
        source = {"persistentVolumeClaim": {"claimName": claim}}
        volumes.append(_volume(folder, f"{WORKING_DIR}/{folder}", source))
    if isinstance(run, TrainRun) and run.data.cache_dir:
        path = posixpath.normpath(posixpath.join(WORKING_DIR, run.data.cache_dir))
        volumes.append(_volume("cache", path, {"emptyDir": {}}))  # bounded by resources.disk
    return volumes


def _volume(
    name: str, path: str, source: Manifest, *, read_only: bool = False
) -> tuple[Manifest, Manifest]:
    mount = {"name": name, "mountPath": path} | ({"readOnly": True} if read_only else {})
    return mount, {"name": name, **source}


def _shm_size(resources: ResourcesConfig) -> str:
    """Returns the size limit of /dev/shm, whose pages count into the memory limit."""
    amount, unit = re.fullmatch(r"(\d+)(\w+)", resources.memory).groups()  # type: ignore[union-attr]
    return f"{max(1, int(amount) * _MEBIBYTES[unit] // _SHM_SHARE)}Mi"


def _container(cluster: ClusterConfig, *, mounts: list[Manifest]) -> Manifest:
    resources = _resources(cluster.resources)
    threads = max(1, cluster.resources.cpu // cluster.processes_per_node)
    return {
        "name": CONTAINER,
        "image": cluster.image,
        "imagePullPolicy": "IfNotPresent",  # 64 nodes; the image is there before (prepull.yaml)
        "command": ["python", "-m", "florence.launcher", f"{CONFIG_DIR}/{RUN_FILE}"],
        "workingDir": WORKING_DIR,
        "env": [{"name": "OMP_NUM_THREADS", "value": str(threads)}],
        # What a pod must know of its site rather than of its run, each only where it exists.
        "envFrom": [
            {"configMapRef": {"name": _SITE, "optional": True}},
            *({"secretRef": {"name": secret, "optional": True}} for secret in _SECRETS),
        ],
        "resources": {"limits": resources, "requests": resources},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": mounts,
    }


def _resources(wanted: ResourcesConfig) -> dict[str, str]:
    devices = {GPU_RESOURCE: wanted.gpu, RDMA_RESOURCE: wanted.rdma}
    return {
        "cpu": str(wanted.cpu),
        "memory": wanted.memory,
        "ephemeral-storage": wanted.disk,
        **{name: str(count) for name, count in devices.items() if count},
    }
