"""Translates a pod to a process of this machine: command, environment, volumes and GPUs.

The image and workingDir are not there: the submitter's folder and environment take their place. A
claim mounted below workingDir is that folder's own subfolder, so relative paths mean the same. What
a site may provide (optional envFrom) is not there either.
"""

from __future__ import annotations

import copy
import os
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from florence.launch.manifest import (
    PORT_NAME,
    JobManifest,
    Manifest,
    pytorch_container,
    replicas,
)
from florence.launch.pods import pod_manifest, pod_name
from florence.util.errors import UserError

GPU_RESOURCE = "nvidia.com/gpu"
MARK = "LOCAL_PYTORCHJOB_POD"
"""Environment variable that marks a pod's processes: <job directory>/<pod name>/."""

_DEFAULT_GRACE = 30.0
_HOST_VARIABLES = ("MASTER_ADDR", "PET_MASTER_ADDR", "PET_RDZV_ENDPOINT")
_VOLUME_KINDS = ("configMap", "emptyDir", "hostPath", "persistentVolumeClaim")


class PodProcess(NamedTuple):
    """A container's command as this machine can run it."""

    command: list[str]
    environment: dict[str, str]
    grace: float
    """Seconds between SIGTERM and SIGKILL."""


class LocalPods:
    """Turns a job's pods into processes; the folders of their volumes lie in the job directory."""

    def __init__(self, manifest: JobManifest, directory: Path) -> None:
        self._job = manifest.job
        self._config_maps = {cm["metadata"]["name"]: cm for cm in manifest.config_maps}
        self._directory = directory
        self._devices = _share_gpus(manifest.job)

    def check(self) -> None:
        """Raises UserError naming the field for a pod that cannot run on this machine."""
        for kind, _ in replicas(self._job):
            pod = pod_manifest(self._job, kind, 0)
            _check_pod(pod, f"spec.pytorchReplicaSpecs.{kind}.template.spec")
            for volume in pod["spec"].get("volumes", []):
                self._check_volume(volume, kind)
            self.process(pod)

    def _check_volume(self, volume: Manifest, kind: str) -> None:
        path = f"spec.pytorchReplicaSpecs.{kind}.template.spec.volumes.{volume['name']}"
        source = next((key for key in volume if key != "name"), "emptyDir")
        if source not in _VOLUME_KINDS:
            allowed = ", ".join(_VOLUME_KINDS)
            raise UserError(
                f"{path}.{source} cannot be mounted on this machine; allowed: {allowed}"
            )
        if source != "configMap":
            return
        name = volume[source]["name"]
        if name not in self._config_maps:
            raise UserError(f"{path}.configMap.name = {name!r} is not in the manifest")
        if "items" in volume[source]:
            raise UserError(f"{path}.configMap.items is not supported on this machine")

    def make_volumes(self, pod: Manifest) -> None:
        """Makes the pod's volumes anew: ConfigMaps as read-only files, emptyDirs empty."""
        root = self._volumes(pod)
        shutil.rmtree(root, ignore_errors=True)
        for volume in pod["spec"].get("volumes", []):
            folder = root / volume["name"]
            folder.mkdir(parents=True)
            if "configMap" in volume:
                for name, text in self._config_maps[volume["configMap"]["name"]]["data"].items():
                    (folder / name).write_text(text)
                    (folder / name).chmod(0o444)

    def process(self, pod: Manifest) -> PodProcess:
        """Returns what to start for a pod made by the operator."""
        container = pytorch_container(pod)
        mounts = self._mounts(pod, container)
        name = pod["metadata"]["name"]
        own: dict[str, str] = {}
        for variable in container["env"]:
            own[variable["name"]] = _rewrite(_expand(str(variable["value"]), own), mounts)
        own |= {key: _loopback(own[key], self._job) for key in _HOST_VARIABLES if key in own}
        words = [*container["command"], *container.get("args", [])]
        command = [_rewrite(_expand(word, own), mounts) for word in words]
        if command[0] in ("python", "python3"):
            command[0] = sys.executable
        # Scripts of the same environment, such as torchrun, are found as in the image.
        path = os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", "")])
        environment = {
            **os.environ,
            "PATH": path,
            "CUDA_VISIBLE_DEVICES": self._devices[name],
            **own,
            MARK: f"{self._directory}/{name}/",
        }
        grace = pod["spec"].get("terminationGracePeriodSeconds", _DEFAULT_GRACE)
        return PodProcess(command, environment, grace)

    def _volumes(self, pod: Manifest) -> Path:
        return self._directory / "volumes" / str(pod["metadata"]["name"])

    def _mounts(self, pod: Manifest, container: Manifest) -> dict[str, str]:
        """Returns the folder of every mountPath, the longest first so that nested ones win."""
        sources = {volume["name"]: volume for volume in pod["spec"].get("volumes", [])}
        mounts: dict[str, str] = {}
        for mount in container.get("volumeMounts", []):
            path, source = mount["mountPath"].rstrip("/"), sources[mount["name"]]
            if "hostPath" in source:
                mounts[path] = source["hostPath"]["path"]
            elif "persistentVolumeClaim" in source:
                mounts[path] = os.path.abspath(os.path.relpath(path, container["workingDir"]))
            else:
                mounts[path] = str(self._volumes(pod) / mount["name"])
        return dict(sorted(mounts.items(), key=lambda item: -len(item[0])))


def with_port(job: Manifest, port: int) -> Manifest:
    """Returns the job with its rendezvous on another port: many jobs share this machine's."""
    job = copy.deepcopy(job)
    for _, replica in replicas(job):
        for entry in pytorch_container(replica["template"])["ports"]:
            if entry.get("name") == PORT_NAME:
                entry["containerPort"] = port
    elastic = job["spec"].get("elasticPolicy") or {}
    if "rdzvPort" in elastic:
        elastic["rdzvPort"] = port
    return job


def _check_pod(pod: Manifest, path: str) -> None:
    spec = pod["spec"]
    if spec.get("initContainers") or len(spec["containers"]) > 1:
        raise UserError(f"{path}: this machine runs one container per pod and no initContainers")
    path += ".containers[0]"
    container = spec["containers"][0]
    if not container.get("command"):
        raise UserError(f"{path}.command is missing: this machine has no image to take it from")
    indirect = [v["name"] for v in container["env"] if "valueFrom" in v]
    needed = [
        source
        for source in container.get("envFrom", [])
        if not any(reference.get("optional") for reference in source.values() if reference)
    ]
    if indirect or needed:
        field = f"env.{indirect[0]}.valueFrom" if indirect else "envFrom"
        raise UserError(
            f"{path}.{field} is not supported on this machine; allowed: env.value, optional envFrom"
        )
    claims = {v["name"] for v in spec.get("volumes", []) if "persistentVolumeClaim" in v}
    folder = container.get("workingDir", "/").rstrip("/") + "/"
    for mount in container.get("volumeMounts", []):
        if "subPath" in mount:
            raise UserError(f"{path}.volumeMounts.{mount['name']}.subPath is not supported here")
        if mount["name"] in claims and not mount["mountPath"].startswith(folder):
            raise UserError(
                f"{path}.volumeMounts.{mount['name']}.mountPath = {mount['mountPath']!r}: on this "
                f"machine a claim has to be below workingDir ({folder})"
            )


def _expand(text: str, variables: Mapping[str, str]) -> str:
    """Expands $(NAME) as the kubelet does: unknown names stay, $$(NAME) is literal."""

    def value(match: re.Match[str]) -> str:
        if match[0].startswith("$$"):
            return match[0][1:]
        return variables.get(match[1], match[0])

    return re.sub(r"\$?\$\((\w+)\)", value, text)


def _rewrite(text: str, mounts: Mapping[str, str]) -> str:
    """Replaces mount paths by the folders that take their place on this machine."""
    if not mounts:
        return text
    paths = "|".join(map(re.escape, mounts))
    if word := re.fullmatch(rf"(--?[\w-]+=)?({paths})(/\S*)?", text):
        return f"{word[1] or ''}{mounts[word[2]]}{word[3] or ''}"

    def folder(match: re.Match[str]) -> str:
        path = mounts[match[1]]
        if re.search(r"\s", path):
            raise UserError(f"{text!r}: {match[1]} is {path!r} here, whose space a shell splits at")
        return path

    return re.sub(rf"(?<![\w./-])({paths})(?=/|$|[^\w.-])", folder, text)


def _loopback(value: str, job: Manifest) -> str:
    names = (pod_name(job["metadata"]["name"], kind, 0) for kind in ("Master", "Worker"))
    for name in names:
        value = re.sub(rf"^{re.escape(name)}(?=:|$)", "127.0.0.1", value)
    return value


def _share_gpus(job: Manifest) -> dict[str, str]:
    """Returns each pod's CUDA_VISIBLE_DEVICES: a slice of this machine's, empty without a limit."""
    free = _visible_gpus()
    shares: dict[str, str] = {}
    wanted = 0
    for kind, replica in replicas(job):
        limits = pytorch_container(replica["template"]).get("resources", {}).get("limits", {})
        count = int(limits.get(GPU_RESOURCE, 0))
        for index in range(replica["replicas"]):
            name = pod_name(job["metadata"]["name"], kind, index)
            shares[name] = ",".join(free[wanted : wanted + count])
            wanted += count
    if wanted > len(free):
        raise UserError(f"the job's limits add up to {wanted} GPUs; this machine has {len(free)}")
    return shares


def _visible_gpus() -> Sequence[str]:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [device for device in visible.split(",") if device]
    devices = (re.fullmatch(r"nvidia(\d+)", path.name) for path in Path("/dev").glob("nvidia*"))
    return sorted((device[1] for device in devices if device), key=int)
