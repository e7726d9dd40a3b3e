"""Fixtures: a server, the real Python clients and the real kubectl, and objects to give them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import kubernetes
import pytest

from tests.apiserver import ApiServer

Object = dict[str, Any]


@pytest.fixture
def server() -> Iterator[ApiServer]:
    with ApiServer() as server:
        yield server


@pytest.fixture
def kubeconfig(server: ApiServer, tmp_path: Path) -> Path:
    return server.write_kubeconfig(tmp_path / "kubeconfig")


@pytest.fixture
def client(kubeconfig: Path) -> Iterator[kubernetes.client.ApiClient]:
    """A client that tries nothing twice: a test sees every fault."""
    configuration = kubernetes.client.Configuration()
    configuration.retries = False
    kubernetes.config.load_kube_config(str(kubeconfig), client_configuration=configuration)
    with kubernetes.client.ApiClient(configuration) as client:
        yield client


@pytest.fixture
def core(client: kubernetes.client.ApiClient) -> kubernetes.client.CoreV1Api:
    return kubernetes.client.CoreV1Api(client)


@pytest.fixture
def jobs(client: kubernetes.client.ApiClient) -> PyTorchJobs:
    return PyTorchJobs(kubernetes.client.CustomObjectsApi(client))


class PyTorchJobs:
    """CustomObjectsApi without the four arguments that never change."""

    def __init__(self, api: kubernetes.client.CustomObjectsApi) -> None:
        self.api = api
        self.where = ("kubeflow.org", "v1", "default", "pytorchjobs")

    def create(self, job: Object, **options: Any) -> Object:
        return self.api.create_namespaced_custom_object(*self.where, job, **options)

    def get(self, name: str) -> Object:
        return self.api.get_namespaced_custom_object(*self.where, name)

    def patch(self, name: str, patch: Object) -> Object:
        return self.api.patch_namespaced_custom_object(*self.where, name, patch)

    def replace(self, job: Object) -> Object:
        name = job["metadata"]["name"]
        return self.api.replace_namespaced_custom_object(*self.where, name, job)

    def delete(self, name: str, **options: Any) -> Object:
        return self.api.delete_namespaced_custom_object(*self.where, name, **options)


@pytest.fixture
def kubectl(kubeconfig: Path, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs kubectl; `stdin` may be an object, which is given as JSON."""
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")

    def run(
        *arguments: str, stdin: object = None, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            ["kubectl", *arguments],
            input=None if stdin is None else json.dumps(stdin),
            env={**os.environ, "KUBECONFIG": str(kubeconfig), "HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert not check or done.returncode == 0, done.stderr
        return done

    return run


@pytest.fixture
def make_pod() -> Callable[..., Object]:
    def make(name: str, *, containers: tuple[str, ...] = ("pytorch",), **labels: str) -> Object:
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "labels": labels},
            "spec": {"containers": [{"name": name, "image": "image"} for name in containers]},
        }

    return make


@pytest.fixture
def make_job() -> Callable[..., Object]:
    """Makes a PyTorchJob of one master and some workers that run a shell command."""

    def make(
        name: str, command: str = "true", *, workers: int = 1, restart_policy: str = "ExitCode"
    ) -> Object:
        container = {"name": "pytorch", "image": "image", "command": ["sh", "-c", command]}
        counts = {"Master": 1, "Worker": workers}
        return {
            "apiVersion": "kubeflow.org/v1",
            "kind": "PyTorchJob",
            "metadata": {"name": name, "labels": {"team": "vision"}},
            "spec": {
                "runPolicy": {"cleanPodPolicy": "None"},
                "pytorchReplicaSpecs": {
                    kind: {
                        "replicas": count,
                        "restartPolicy": restart_policy,
                        "template": {"spec": {"containers": [container]}},
                    }
                    for kind, count in counts.items()
                    if count
                },
            },
        }

    return make


@pytest.fixture
def eventually() -> Callable[[Callable[[], object]], None]:
    """Waits until something holds, 20 s at most."""

    def wait(holds: Callable[[], object]) -> None:
        deadline = time.monotonic() + 20
        while not holds():
            assert time.monotonic() < deadline, "it does not come true"
            time.sleep(0.02)

    return wait
