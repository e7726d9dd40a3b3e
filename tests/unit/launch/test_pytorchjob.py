"""A run renders to one manifest, which holds the run itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from florence.config.resolve import load_run, resolve
from florence.config.run import TrainRun
from florence.launch.manifest import Manifest, to_yaml, validate
from florence.launch.pytorchjob import for_cluster, render

JOBS = Path(__file__).parents[3] / "jobs"


def demo(*overrides: str) -> TrainRun:
    run = resolve(JOBS / "demo.yaml", overrides)
    assert isinstance(run, TrainRun)
    return run


def job_of(*overrides: str) -> Manifest:
    return render(demo(*overrides)).job


def pod_of(job: Manifest) -> Manifest:
    spec: Manifest = job["spec"]["pytorchReplicaSpecs"]["Master"]["template"]["spec"]
    return spec


@pytest.mark.parametrize("path", sorted(JOBS.rglob("*.yaml")), ids=lambda path: path.stem)
def test_every_job_file_renders_to_a_valid_manifest_of_the_same_run(
    path: Path, tmp_path: Path
) -> None:
    run = resolve(path)
    manifest = render(run)
    validate(manifest.job)
    assert to_yaml(manifest.documents) == to_yaml(render(run).documents)
    (config_map,) = manifest.config_maps
    (tmp_path / "run.yaml").write_text(config_map["data"]["run.yaml"])
    assert load_run(tmp_path / "run.yaml") == run
    assert manifest.job["metadata"]["name"] == config_map["metadata"]["name"] == run.job_name


def test_nodes_become_a_master_and_workers() -> None:
    assert "Worker" not in job_of("--cluster.nodes", "1")["spec"]["pytorchReplicaSpecs"]
    job = job_of("--cluster.nodes", "4", "--cluster.processes_per_node", "8")
    assert job["spec"]["pytorchReplicaSpecs"]["Worker"]["replicas"] == 3
    assert job["spec"]["nprocPerNode"] == "8"


def test_a_pod_has_no_more_rights_than_it_needs() -> None:
    pod = pod_of(job_of())
    (container,) = pod["containers"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_shared_memory_is_a_quarter_of_the_memory_limit() -> None:
    pod = pod_of(job_of("--cluster.resources.memory", "8Gi"))
    (shm,) = (volume for volume in pod["volumes"] if volume["name"] == "shm")
    assert shm["emptyDir"] == {"medium": "Memory", "sizeLimit": "2048Mi"}


def test_a_queue_admits_the_job() -> None:
    job = job_of("--cluster.queue", "florence")
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "florence"
    assert job["spec"]["runPolicy"]["suspend"] is True
    assert "suspend" not in job_of()["spec"]["runPolicy"]


def test_a_deadline_is_in_seconds() -> None:
    policy = job_of("--cluster.deadline_hours", "1.5")["spec"]["runPolicy"]
    assert policy["activeDeadlineSeconds"] == 5400


def test_a_local_store_becomes_the_platforms_server() -> None:
    assert for_cluster(demo()).tracking.uri == "http://mlflow.florence-platform.svc:5000"
    own = demo("--tracking.uri", "https://mlflow.example.org")
    assert for_cluster(own) == own
