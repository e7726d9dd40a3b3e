"""Reading, defaulting and validating PyTorchJobs as the operator and its webhook do."""

from __future__ import annotations

from typing import Any

import pytest

from florence.launch.manifest import Manifest, apply_defaults, read_manifest, to_yaml, validate
from florence.launch.pods import operator_environment, pod_manifest, service_manifest
from florence.util.errors import UserError


def make_job(**spec: Any) -> Manifest:
    replica = {"replicas": 1, "template": {"spec": {"containers": [container()]}}}
    return {
        "apiVersion": "kubeflow.org/v1",
        "kind": "PyTorchJob",
        "metadata": {"name": "job", "namespace": "default", "uid": "1"},
        "spec": {"pytorchReplicaSpecs": {"Master": replica}} | spec,
    }


def container(**fields: Any) -> Manifest:
    return {"name": "pytorch", "image": "any"} | fields


def workers(count: int, **fields: Any) -> Manifest:
    template = {"spec": {"containers": [container()]}}
    return {"Worker": {"replicas": count, "template": template} | fields}


def test_defaults_are_the_operators() -> None:
    job = apply_defaults(make_job())
    master = job["spec"]["pytorchReplicaSpecs"]["Master"]
    assert job["spec"]["runPolicy"] == {"cleanPodPolicy": "None"}
    assert job["spec"]["nprocPerNode"] == "auto"
    assert master["restartPolicy"] == "OnFailure"
    assert master["template"]["spec"]["containers"][0]["ports"] == [
        {"name": "pytorchjob-port", "containerPort": 23456}
    ]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"metadata": {"name": "Job"}}, "metadata.name = 'Job'"),
        ({"apiVersion": "kubeflow.org/v2"}, "apiVersion = 'kubeflow.org/v2'"),
        ({"spec": {}}, "spec.pytorchReplicaSpecs is missing"),
        ({"spec": {"pytorchReplicaSpecs": {"Wroker": {}}}}, "Wroker is unknown; did you mean"),
        ({"spec": {"pytorchReplicaSpecs": {"Master": {"replicas": 2}}}}, "Master.replicas = 2"),
        ({"spec": {"pytorchReplicaSpecs": workers(0)}}, "Worker.replicas = 0"),
        (
            {"spec": {"pytorchReplicaSpecs": workers(1, restartPolicy="Sometimes")}},
            "Worker.restartPolicy = 'Sometimes'",
        ),
        (
            {
                "spec": {
                    "pytorchReplicaSpecs": workers(
                        1, template={"spec": {"containers": [container(image="")]}}
                    )
                }
            },
            "containers[0].image is missing",
        ),
        (
            {
                "spec": {
                    "pytorchReplicaSpecs": workers(
                        1, template={"spec": {"containers": [container(name="main")]}}
                    )
                }
            },
            "no container named 'pytorch'",
        ),
        ({"spec": make_job(runPolicy={"managedBy": "me"})["spec"]}, "runPolicy.managedBy = 'me'"),
        (
            {"spec": make_job(runPolicy={"cleanPodPolicy": "Some"})["spec"]},
            "runPolicy.cleanPodPolicy = 'Some'",
        ),
        ({"spec": make_job(elasticPolicy={})["spec"]}, "needs spec.pytorchReplicaSpecs.Worker"),
        (
            {
                "spec": {
                    "pytorchReplicaSpecs": workers(1),
                    "elasticPolicy": {"nProcPerNode": 1},
                    "nprocPerNode": "1",
                }
            },
            "are both set",
        ),
    ],
)
def test_what_the_webhook_refuses_is_named(change: Manifest, field: str) -> None:
    validate(make_job())
    with pytest.raises(UserError) as caught:
        validate(make_job() | change)
    assert field in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kind: [", "is not YAML"),
        ("kind: Pod", "kind 'Pod'"),
        ("kind: ConfigMap", "0 documents of kind PyTorchJob"),
        ("kind: PyTorchJob\n---\nkind: PyTorchJob", "2 documents of kind PyTorchJob"),
    ],
)
def test_a_file_that_is_no_job_is_named(text: str, message: str) -> None:
    with pytest.raises(UserError, match=r"job\.yaml") as caught:
        read_manifest(text, source="job.yaml")
    assert message in str(caught.value)


def test_yaml_round_trips() -> None:
    assert read_manifest(to_yaml([make_job()]), source="").job == make_job()


def environment(job: Manifest, kind: str, index: int) -> dict[str, str]:
    return {v["name"]: v["value"] for v in operator_environment(apply_defaults(job), kind, index)}


def test_the_environment_of_a_static_job() -> None:
    job = make_job(nprocPerNode="8")
    job["spec"]["pytorchReplicaSpecs"] |= workers(3)
    assert environment(job, "Worker", 1) == {
        "PYTHONUNBUFFERED": "1",
        "MASTER_PORT": "23456",
        "PET_MASTER_PORT": "23456",
        "MASTER_ADDR": "job-master-0",
        "PET_MASTER_ADDR": "job-master-0",
        "WORLD_SIZE": "32",
        "RANK": "2",
        "PET_NODE_RANK": "2",
        "PET_NPROC_PER_NODE": "8",
        "PET_NNODES": "4",
    }
    assert environment(job, "Master", 0)["RANK"] == "0"


def test_the_environment_of_an_elastic_job() -> None:
    job = make_job(
        pytorchReplicaSpecs=workers(4),
        elasticPolicy={
            "minReplicas": 2,
            "nProcPerNode": 8,
            "rdzvConf": [{"key": "a", "value": "1"}, {"key": "b", "value": "2"}],
        },
    )
    assert environment(job, "Worker", 0) == {
        "PYTHONUNBUFFERED": "1",
        "PET_NPROC_PER_NODE": "8",
        "PET_NNODES": "2:2",
        "PET_RDZV_ENDPOINT": "job-worker-0:23456",
        "PET_RDZV_BACKEND": "c10d",
        "PET_RDZV_CONF": "a=1,b=2",
    }


def test_pods_and_services_carry_the_operators_names_and_labels() -> None:
    job = make_job()
    job["spec"]["pytorchReplicaSpecs"] |= workers(1, restartPolicy="ExitCode")
    job = apply_defaults(job)
    pod, service = pod_manifest(job, "Worker", 0), service_manifest(job, "Worker", 0)
    assert pod["metadata"]["name"] == service["metadata"]["name"] == "job-worker-0"
    assert pod["spec"]["restartPolicy"] == "Never"
    assert pod["metadata"]["labels"] == {
        "training.kubeflow.org/operator-name": "pytorchjob-controller",
        "training.kubeflow.org/job-name": "job",
        "training.kubeflow.org/replica-type": "worker",
        "training.kubeflow.org/replica-index": "0",
    }
    assert service["spec"]["selector"] == pod["metadata"]["labels"]
    assert pod["metadata"]["ownerReferences"][0]["uid"] == "1"
    master = pod_manifest(job, "Master", 0)
    assert master["metadata"]["labels"]["training.kubeflow.org/job-role"] == "master"
    assert master["spec"]["restartPolicy"] == "OnFailure"
