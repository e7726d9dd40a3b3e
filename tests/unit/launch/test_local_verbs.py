"""What the local backend makes of the verbs and options it shares with Kubernetes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from florence.launch.local import LocalBackend
from florence.launch.manifest import JobManifest
from florence.launch.status import JobState
from florence.util.errors import UserError


def test_rank_chooses_a_pod_and_what_a_cluster_has_is_refused(tmp_path: Path) -> None:
    script = 'echo "rank $RANK"; [ "$RANK" = 1 ] || sleep 1'
    container = {"name": "pytorch", "image": "any", "command": ["sh", "-c", script]}
    replica = {"replicas": 1, "template": {"spec": {"containers": [container]}}}
    job = {
        "apiVersion": "kubeflow.org/v1",
        "kind": "PyTorchJob",
        "metadata": {"name": "pair"},
        "spec": {"pytorchReplicaSpecs": {"Master": replica, "Worker": replica}},
    }
    backend = LocalBackend(tmp_path)
    backend.submit(JobManifest(job, ()))
    assert backend.wait("pair", timeout=20).state is JobState.SUCCEEDED
    assert list(backend.logs("pair", rank=1)) == [("pair-worker-0", "rank 1")]
    with pytest.raises(UserError, match="0 to 1"):
        backend.logs("pair", rank=2)
    for refused in (backend.events, backend.suspend, backend.resume):
        with pytest.raises(UserError, match="only on the kubernetes backend"):
            refused("pair")


def test_listing_local_jobs_imports_no_client_of_a_cluster(tmp_path: Path) -> None:
    program = (
        "import sys; from florence.cli.main import app\n"
        "app(['jobs', 'list'], standalone_mode=False)\n"
        "heavy = {'kubernetes', 'kubeflow', 'mlflow', 'torch', 'urllib3'} & set(sys.modules)\n"
        "sys.exit(f'imported: {heavy}' if heavy else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
