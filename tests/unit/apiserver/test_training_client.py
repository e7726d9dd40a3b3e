"""kubeflow.training.TrainingClient, whole lives of jobs: submit, wait, logs, suspend, delete."""

from __future__ import annotations

import pytest
from kubeflow.training import TrainingClient
from kubeflow.training.utils.utils import FakeResponse

from tests.apiserver import Fault
from tests.apiserver.controller import Controller
from tests.apiserver.kubelet import Kubelet, runs
from tests.apiserver.kueue import Kueue


@pytest.fixture
def training(kubeconfig) -> TrainingClient:
    return TrainingClient(config_file=str(kubeconfig), job_kind="PyTorchJob")


def job_model(training: TrainingClient, job: dict):
    """The typed model that create_job takes."""
    return training.api_client.deserialize(FakeResponse(job), "KubeflowOrgV1PyTorchJob")


def test_a_job_from_create_to_delete(training, server, make_job, core):
    with Controller(server), Kubelet(server, runs(b"hello\n", seconds=0.5)):
        training.create_job(job_model(training, make_job("demo", workers=2)), namespace="default")
        with pytest.raises(RuntimeError) as error:
            training.create_job(job_model(training, make_job("demo")), namespace="default")
        assert error.value.__cause__.status == 409
        training.wait_for_job_conditions("demo", namespace="default", polling_interval=0.1)
        assert training.is_job_succeeded("demo", namespace="default")
        assert [job.metadata.name for job in training.list_jobs(namespace="default")] == ["demo"]
        pods = training.get_job_pod_names("demo", namespace="default")
        assert pods == ["demo-master-0", "demo-worker-0", "demo-worker-1"]
        logs, _ = training.get_job_logs("demo", namespace="default", is_master=False)
        assert logs == dict.fromkeys(pods, "hello\n")
        training.delete_job("demo", namespace="default")
    assert core.list_namespaced_pod("default").items == []
    assert core.list_namespaced_service("default").items == []


def test_selectors_keep_jobs_apart(training, server, make_job):
    with Controller(server), Kubelet(server, runs(seconds=60)):
        for name in ("one", "two"):
            training.create_job(job_model(training, make_job(name)), namespace="default")
            training.wait_for_job_conditions(
                name,
                namespace="default",
                expected_conditions={"Running"},
                polling_interval=0.1,
            )
        pods = training.get_job_pod_names("one", namespace="default")
    assert pods == ["one-master-0", "one-worker-0"]


def test_suspend_and_resume(training, server, make_job, eventually):
    def conditions() -> set[str]:
        found = training.get_job_conditions("demo", namespace="default")
        return {condition.type for condition in found if condition.status == "True"}

    with Controller(server), Kubelet(server, runs(seconds=60)):
        training.create_job(job_model(training, make_job("demo")), namespace="default")
        eventually(lambda: "Running" in conditions())
        patch = {"spec": {"runPolicy": {"suspend": True}}}
        training.custom_api.patch_namespaced_custom_object(
            "kubeflow.org", "v1", "default", "pytorchjobs", "demo", patch
        )
        eventually(lambda: "Suspended" in conditions() and not server.store.all("Pod"))
        assert "Running" not in conditions()
        patch = {"spec": {"runPolicy": {"suspend": False}}}
        training.custom_api.patch_namespaced_custom_object(
            "kubeflow.org", "v1", "default", "pytorchjobs", "demo", patch
        )
        eventually(lambda: "Running" in conditions())
        assert len(server.store.all("Pod")) == 2


def test_a_queue_holds_a_job_until_it_is_admitted(training, server, make_job, eventually):
    def state() -> tuple[int, list[str]]:
        found = training.get_job_conditions("demo", namespace="default")
        true = [condition.type for condition in found if condition.status == "True"]
        return len(server.store.all("Pod")), true

    queue = {
        "apiVersion": "kueue.x-k8s.io/v1beta1",
        "kind": "LocalQueue",
        "metadata": {"name": "research"},
        "spec": {"clusterQueue": "cluster-queue"},
    }
    server.store.create(queue)
    with Kueue(server) as kueue, Controller(server), Kubelet(server, runs(seconds=60)):
        job = make_job("demo")
        job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] = "research"
        training.create_job(job_model(training, job), namespace="default")
        eventually(lambda: state() == (0, ["Created", "Suspended"]))
        (workload,) = server.store.all("Workload")
        assert workload["spec"]["queueName"] == "research"
        kueue.explain("demo", "insufficient unused quota for nvidia.com/gpu")
        kueue.admit("demo")
        eventually(lambda: state() == (2, ["Created", "Running"]))
        kueue.evict("demo", "Preempted to accommodate a higher priority Workload")
        eventually(lambda: state() == (0, ["Created", "Suspended"]))
        (workload,) = server.store.all("Workload")
        found = {c["type"]: c["status"] for c in workload["status"]["conditions"]}
        assert found == {"QuotaReserved": "False", "Admitted": "False", "Evicted": "True"}
    training.delete_job("demo", namespace="default")
    assert server.store.all("Workload") == []


@pytest.mark.parametrize("status", [403, 404, 500])
def test_api_errors_are_the_cause_of_what_the_client_raises(training, server, status):
    server.faults.add(Fault(verb="get", path="/pytorchjobs/", status=status))
    with pytest.raises(RuntimeError) as error:
        training.get_job("demo", namespace="default")
    assert error.value.__cause__.status == status
