"""Every finding of the doctor, good and bad, on a server that is set up accordingly."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

from florence.launch.doctor import Finding, examine_cluster, examine_machine
from tests.apiserver import Access, ApiServer, Rule


def by_name(findings: object) -> dict[str, Finding]:
    assert hasattr(findings, "__iter__")
    return {finding.name: finding for finding in findings}


class Healthy(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/health" else 404)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Prints nothing."""


def test_a_cluster_that_has_everything(tmp_path: Path) -> None:
    mlflow = HTTPServer(("127.0.0.1", 0), Healthy)
    threading.Thread(target=mlflow.serve_forever, daemon=True).start()
    with ApiServer() as server:
        put(server, "LocalQueue", "gpus", spec={"clusterQueue": "gpus"})
        put(server, "PersistentVolumeClaim", "florence-runs", spec={})
        server.store.set_status("PersistentVolumeClaim", "florence-runs", {"phase": "Bound"})
        found = by_name(
            examine_cluster(
                "default",
                queue="gpus",
                tracking_uri=f"http://127.0.0.1:{mlflow.server_port}",
                kubeconfig=server.write_kubeconfig(tmp_path / "kubeconfig"),
            )
        )
    mlflow.shutdown()
    assert list(found) == ["cluster", "operator", "permissions", "queue", "mlflow", "storage"]
    assert all(finding.ok for finding in found.values()), found


def test_a_cluster_that_has_nothing(tmp_path: Path) -> None:
    denied = (Rule(verbs=("create",), resources=("pytorchjobs",)), Rule(resources=("pods/log",)))
    access = Access(denied=denied)
    with ApiServer(access=access, without_groups=("kubeflow.org",)) as server:
        put(server, "LocalQueue", "cpus", spec={"clusterQueue": "cpus"})
        put(server, "PersistentVolumeClaim", "florence-runs", spec={})
        kubeconfig = server.write_kubeconfig(tmp_path / "kubeconfig")
        found = by_name(
            examine_cluster(
                "default", queue="gpus", tracking_uri="http://127.0.0.1:9", kubeconfig=kubeconfig
            )
        )
    assert [name for name, finding in found.items() if finding.ok] == ["cluster"]
    assert "no pytorchjobs.kubeflow.org v1" in found["operator"].detail
    assert found["permissions"].detail == "may not: create pytorchjobs.kubeflow.org, get pods/log"
    assert found["queue"].detail == "no LocalQueue gpus; there are: cpus"
    assert "does not answer" in found["mlflow"].detail
    assert found["storage"].detail == "florence-runs is Pending"
    (gone,) = examine_cluster("default", queue=None, tracking_uri="", kubeconfig=kubeconfig)
    assert gone.name == "cluster"
    assert not gone.ok


def test_a_queue_that_admits_nothing(tmp_path: Path) -> None:
    with ApiServer() as server:
        put(server, "LocalQueue", "gpus", spec={"clusterQueue": "gone"})
        message = "Can't submit new workloads to clusterQueue"
        condition = {"type": "Active", "status": "False", "message": message}
        server.store.set_status("LocalQueue", "gpus", {"conditions": [condition]})
        kubeconfig = server.write_kubeconfig(tmp_path / "kubeconfig")
        found = by_name(
            examine_cluster(
                "default", queue="gpus", tracking_uri="sqlite:///x.db", kubeconfig=kubeconfig
            )
        )
    assert message in found["queue"].detail
    assert "http://mlflow" in found["mlflow"].detail  # what jobs that would track to a file use


def test_this_machine(tmp_path: Path) -> None:
    found = by_name(
        examine_machine(runs_dir=tmp_path / "runs", tracking_uri=f"sqlite:///{tmp_path}/a/b.db")
    )
    assert list(found) == ["python", "g++", "torch", "deepspeed", "disk", "mlflow"]
    assert found["python"].ok
    assert found["mlflow"] == Finding("mlflow", f"{tmp_path}/a/b.db")
    missing = by_name(
        examine_machine(runs_dir=Path("/proc/runs"), tracking_uri="http://127.0.0.1:9")
    )
    assert not missing["mlflow"].ok


def put(server: ApiServer, kind: str, name: str, *, spec: object) -> None:
    version = "v1" if kind == "PersistentVolumeClaim" else "kueue.x-k8s.io/v1beta1"
    server.store.create(
        {"apiVersion": version, "kind": kind, "metadata": {"name": name}, "spec": spec}
    )
