"""The command line on a cluster whose operator is real and whose pods are processes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from tests.apiserver import ApiServer
from tests.apiserver.controller import Controller
from tests.apiserver.kubelet import Kubelet
from tests.apiserver.processes import Processes

ROOT = Path(__file__).parents[2]
Run = Callable[..., subprocess.CompletedProcess[str]]

PROGRAM = """
import os, socket, sys, time
address, rank = (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])), os.environ["RANK"]
print("rank", rank, "of", os.environ["WORLD_SIZE"], open(sys.argv[1]).read().strip(), flush=True)
if rank == "0":
    with socket.create_server(address) as listener:
        worker = listener.accept()[0]
        worker.sendall(b"hello")
        worker.recv(1)  # the worker has ended: the master's end is the job's
        time.sleep(0.5)
else:
    while True:
        try:
            connection = socket.create_connection(address)
            break
        except ConnectionRefusedError:
            time.sleep(0.05)
    print(connection.recv(5).decode(), flush=True)
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ApiServer]:
    with ApiServer() as server:
        processes = Processes(server, tmp_path / "volumes")
        server.store.create(
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "florence"}}
        )
        with Controller(server), Kubelet(server, processes):
            yield server


@pytest.fixture
def run(server: ApiServer, tmp_path: Path) -> Run:
    """Runs a command that knows the cluster."""
    kubeconfig = server.write_kubeconfig(tmp_path / "kubeconfig", namespace="florence")
    environment = {**os.environ, "KUBECONFIG": str(kubeconfig), "HOME": str(tmp_path)}

    def run(
        *command: str, stdin: str | None = None, code: int = 0
    ) -> subprocess.CompletedProcess[str]:
        if command[0] == "florence":
            command = (sys.executable, "-m", "florence.cli", *command[1:])
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done

    return run


@pytest.fixture
def job(tmp_path: Path) -> Path:
    container = {
        "name": "pytorch",
        "image": "image",
        "command": [sys.executable, "/etc/run/main.py", "/etc/run/text"],
        "volumeMounts": [{"name": "run", "mountPath": "/etc/run"}],
    }
    volume = {"name": "run", "configMap": {"name": "pair"}}
    replica = {
        "replicas": 1,
        "restartPolicy": "ExitCode",
        "template": {"spec": {"containers": [container], "volumes": [volume]}},
    }
    labels = {"app.kubernetes.io/name": "florence", "florence/run": "two-nodes"}
    documents = [
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "pair"},
            "data": {"main.py": PROGRAM, "text": "of the config"},
        },
        {
            "apiVersion": "kubeflow.org/v1",
            "kind": "PyTorchJob",
            "metadata": {"name": "pair", "labels": labels},
            "spec": {"pytorchReplicaSpecs": {"Master": replica, "Worker": replica}},
        },
    ]
    path = tmp_path / "pair.yaml"
    path.write_text(yaml.safe_dump_all(documents))
    return path


def test_two_nodes_from_submit_to_delete(run: Run, job: Path) -> None:
    here = ("--backend", "kubernetes")
    followed = run("florence", "submit", str(job), *here, "--follow").stdout
    lines = [line for line in followed.splitlines() if " | " in line]
    assert [line for line in lines if line.startswith("master-0")] == [
        "master-0 | rank 0 of 2 of the config"
    ]
    assert [line for line in lines if line.startswith("worker-0")] == [
        "worker-0 | rank 1 of 2 of the config",
        "worker-0 | hello",
    ]
    assert "pair Succeeded in" in followed
    assert "has succeeded already" in run("florence", "submit", str(job), *here).stdout
    assert "Succeeded" in run("florence", "jobs", "list", *here).stdout
    assert "pair-worker-0" in run("florence", "jobs", "status", "two-nodes", *here).stdout
    assert "PyTorchJobSucceeded" in run("florence", "jobs", "events", "pair", *here).stdout
    tail = run("florence", "jobs", "logs", "pair", *here, "--rank", "1", "--tail", "1").stdout
    assert tail == "worker-0 | hello\n"
    refused = run("florence", "jobs", "suspend", "pair", *here, code=2).stderr
    assert "only one that has not ended can be suspended" in refused
    assert run("florence", "jobs", "status", "other", *here, code=2).stderr.startswith("error: no")


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
def test_a_dry_run_is_what_kubectl_applies(run: Run, job: Path) -> None:
    here = ("--backend", "kubernetes")
    dry = run("florence", "submit", str(job), *here, "--dry-run")
    assert dry.stderr == ""
    run("kubectl", "apply", "-f", "-", stdin=dry.stdout)
    assert "pair Succeeded" in run("florence", "jobs", "wait", "pair", *here).stdout
    assert run("florence", "submit", str(job), *here, "--dry-run").stderr == ""
    job.write_text(job.read_text().replace("ExitCode", "OnFailure"))
    diff = run("florence", "submit", str(job), *here, "--dry-run").stderr
    assert "restartPolicy: ExitCode" in [line[1:].strip() for line in diff.splitlines()]


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
def test_a_rendered_job_file_is_one_job_for_kubectl_and_submit(run: Run) -> None:
    queued = ("jobs/demo.yaml", "--cluster.queue", "gpus", "--backend", "kubernetes")
    dry = run("florence", "submit", *queued, "--dry-run")
    run("kubectl", "apply", "-f", "-", stdin=dry.stdout)
    assert "is running already" in run("florence", "submit", *queued).stdout
    status = run("florence", "jobs", "status", "demo", "--backend", "kubernetes").stdout
    assert "Queued" in status  # no Kueue here admits it
    assert "waits for its queue gpus to take it up" in status


def test_doctor_says_what_is_missing(run: Run) -> None:
    found = run("florence", "doctor", "--backend", "kubernetes", code=2).stdout
    lines = {line.split()[1]: line.split()[0] for line in found.splitlines() if "->" not in line}
    assert lines == {
        "cluster": "ok",
        "operator": "ok",
        "permissions": "ok",
        "queue": "ok",
        "mlflow": "fail",
        "storage": "fail",
    }
    assert "no PersistentVolumeClaims" in found
