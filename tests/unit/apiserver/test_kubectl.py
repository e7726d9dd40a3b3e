"""The real kubectl against the server."""

from __future__ import annotations

import json
import subprocess
import threading

import pytest

from tests.apiserver.controller import Controller
from tests.apiserver.kubelet import Kubelet, Life, cannot_pull, runs, stays_pending

CONFIG_MAP = {
    "apiVersion": "v1",
    "kind": "ConfigMap",
    "metadata": {"name": "config"},
    "data": {"run.yaml": "name: demo\n"},
}


def test_apply_get_patch_and_delete(kubectl, server, make_job):
    documents = {"apiVersion": "v1", "kind": "List", "items": [CONFIG_MAP, make_job("demo")]}
    applied = kubectl("apply", "-f", "-", stdin=documents).stdout
    assert applied == "configmap/config created\npytorchjob.kubeflow.org/demo created\n"
    again = kubectl("apply", "-f", "-", stdin=documents).stdout
    assert again == "configmap/config unchanged\npytorchjob.kubeflow.org/demo unchanged\n"
    documents["items"][1]["spec"]["runPolicy"]["suspend"] = True
    changed = kubectl("apply", "-f", "-", stdin=documents).stdout
    assert changed == "configmap/config unchanged\npytorchjob.kubeflow.org/demo configured\n"
    listed = json.loads(kubectl("get", "pytorchjobs", "-l", "team=vision", "-o", "json").stdout)
    assert [job["spec"]["runPolicy"]["suspend"] for job in listed["items"]] == [True]
    patches = {
        "merge": {"spec": {"runPolicy": {"suspend": False}}},
        "json": [{"op": "add", "path": "/metadata/labels/x", "value": "y"}],
    }
    for type, patch in patches.items():
        kubectl("patch", "pytorchjob", "demo", f"--type={type}", "-p", json.dumps(patch))
    job = server.store.get("PyTorchJob", "demo")
    assert job["spec"]["runPolicy"]["suspend"] is False
    assert job["metadata"]["labels"] == {"team": "vision", "x": "y"}
    deleted = kubectl("delete", "-f", "-", stdin=documents).stdout
    assert '"demo" deleted' in deleted
    assert server.store.all("PyTorchJob") == server.store.all("ConfigMap") == []


def test_apply_validates(kubectl, make_job):
    job = make_job("demo")
    job["spec"]["runPolicy"]["backofLimit"] = 3
    refused = kubectl("apply", "-f", "-", stdin=job, check=False)
    assert refused.returncode != 0
    assert 'unknown field "spec.runPolicy.backofLimit"' in refused.stderr


def test_the_operators_webhook_refuses(kubectl, server, make_job):
    job = make_job("demo")
    job["spec"]["pytorchReplicaSpecs"]["Master"]["replicas"] = 2
    with Controller(server):
        refused = kubectl("apply", "-f", "-", stdin=job, check=False)
    assert refused.returncode != 0
    assert "denied the request: spec.pytorchReplicaSpecs.Master.replicas = 2" in refused.stderr


def test_dry_run_and_diff(kubectl, server, make_job):
    job = make_job("demo")
    dry = kubectl("apply", "--dry-run=server", "-f", "-", stdin=job).stdout
    assert dry == "pytorchjob.kubeflow.org/demo created (server dry run)\n"
    assert server.store.all("PyTorchJob") == []
    kubectl("apply", "-f", "-", stdin=job)
    assert kubectl("diff", "-f", "-", stdin=job).stdout == ""
    job["spec"]["nprocPerNode"] = "8"
    difference = kubectl("diff", "-f", "-", stdin=job, check=False)
    assert difference.returncode == 1
    assert '+  nprocPerNode: "8"' in difference.stdout
    assert "nprocPerNode" not in server.store.get("PyTorchJob", "demo")["spec"]


def test_apply_of_an_overlay(kubectl, server, make_job, tmp_path):
    base, overlay = tmp_path / "base", tmp_path / "overlay"
    for folder in (base, overlay):
        folder.mkdir()
    (base / "job.yaml").write_text(json.dumps(make_job("demo")))
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "prod"}}
    (overlay / "namespace.yaml").write_text(json.dumps(namespace))
    (base / "kustomization.yaml").write_text('{"resources": ["job.yaml"]}')
    kustomization = {
        "namespace": "prod",
        "resources": ["../base", "namespace.yaml"],
        "images": [{"name": "image", "newTag": "v2"}],
    }
    (overlay / "kustomization.yaml").write_text(json.dumps(kustomization))
    kubectl("apply", "-k", str(overlay))
    job = server.store.get("PyTorchJob", "demo", "prod")
    template = job["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]
    assert template["spec"]["containers"][0]["image"] == "image:v2"


def test_a_job_as_kubectl_shows_it(kubectl, server, make_job):
    with Controller(server), Kubelet(server, runs(b"step 1\n", b"step 2\n")):
        kubectl("apply", "-f", "-", stdin=make_job("demo"))
        kubectl("wait", "--for=condition=Succeeded", "pytorchjob/demo", "--timeout=20s")
        kubectl("wait", "--for=jsonpath={.status.phase}=Succeeded", "pod/demo-worker-0")
        assert kubectl("get", "pytorchjobs").stdout.split()[:5] == [
            *("NAME", "STATE", "AGE"),
            *("demo", "Succeeded"),
        ]
        wide = kubectl("get", "pods", "-o", "wide").stdout.splitlines()
        assert wide[0].split() == ["NAME", "READY", "STATUS", "RESTARTS", "AGE", "IP", "NODE"]
        assert wide[1].split()[:4] == ["demo-master-0", "0/1", "Completed", "0"]
        master = "--selector=training.kubeflow.org/job-role=master"
        assert kubectl("get", "pods", master, "-o", "name").stdout == "pod/demo-master-0\n"
        done = kubectl("get", "pods", "--field-selector=status.phase=Succeeded", "-o", "name")
        assert len(done.stdout.splitlines()) == 2
        assert kubectl("logs", "demo-master-0", "--tail=1").stdout == "step 2\n"
        prefixed = kubectl("logs", master, "--prefix").stdout
        assert prefixed.splitlines()[0] == "[pod/demo-master-0/pytorch] step 1"
        described = kubectl("describe", "pytorchjob", "demo").stdout
        assert "SuccessfulCreatePod" in described
        assert "Created pod: demo-worker-0" in described
        kubectl("delete", "pytorchjob", "demo")
        assert kubectl("get", "pods,services", "-o", "name").stdout == ""


@pytest.mark.parametrize(
    ("script", "state", "why"),
    [
        (stays_pending(), "Pending", "Insufficient nvidia.com/gpu"),
        (cannot_pull(), "ImagePullBackOff", "Back-off pulling image"),
    ],
)
def test_why_a_pod_waits(kubectl, server, make_pod, eventually, script, state, why):
    with Kubelet(server, script):
        kubectl("apply", "-f", "-", stdin=make_pod("a"))
        eventually(
            lambda: server.store.all("Event") and "a.",
        )
        eventually(lambda: state in kubectl("get", "pod", "a").stdout)
        assert why in kubectl("describe", "pod", "a").stdout
        warnings = kubectl("get", "events", "--field-selector=involvedObject.name=a,type=Warning")
        assert why in warnings.stdout
        assert why in kubectl("events", "--for=pod/a").stdout


def test_logs_follow_and_get_watch(kubectl, kubeconfig, server, make_pod, eventually):
    go_on = threading.Event()

    def script(life: Life) -> None:
        life.schedule()
        life.start()
        life.log([b"first\n"])
        go_on.wait(20)
        life.log([b"second\n"])
        life.end(0)

    with Kubelet(server, script):
        pod = make_pod("a")
        pod["spec"]["restartPolicy"] = "Never"
        kubectl("apply", "-f", "-", stdin=pod)
        eventually(lambda: server.store.get("Pod", "a")["status"]["phase"] == "Running")
        command = ["kubectl", f"--kubeconfig={kubeconfig}"]
        with (
            subprocess.Popen(
                [*command, "logs", "-f", "a"], stdout=subprocess.PIPE, text=True
            ) as logs,
            subprocess.Popen(
                [*command, "get", "pods", "-w"], stdout=subprocess.PIPE, text=True
            ) as pods,
        ):
            assert logs.stdout.readline() == "first\n"
            assert pods.stdout.readline().startswith("NAME")
            assert pods.stdout.readline().split()[2] == "Running"
            go_on.set()
            assert logs.stdout.read() == "second\n"
            assert pods.stdout.readline().split()[2] == "Completed"
            pods.terminate()


def test_delete_waits_for_the_grace_period(kubectl, server, make_pod, eventually):
    with Kubelet(server, runs(seconds=60)):
        kubectl("apply", "-f", "-", stdin=make_pod("a"))
        eventually(lambda: server.store.get("Pod", "a")["status"]["phase"] == "Running")
        kubectl("delete", "pod", "a")
    assert server.store.all("Pod") == []
    server.store.create(make_pod("b"))
    pod = server.store.get("Pod", "b")
    server.store.update("Pod", "b", lambda _: {**pod, "spec": {**pod["spec"], "nodeName": "lost"}})
    kubectl("delete", "pod", "b", "--wait=false")
    assert "Terminating" in kubectl("get", "pods").stdout
    kubectl("delete", "pod", "b", "--force", "--grace-period=0")
    assert server.store.all("Pod") == []
