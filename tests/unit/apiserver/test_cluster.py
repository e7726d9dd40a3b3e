"""The operator, the kubelet and real processes together: restarts, limits, deletion, volumes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from kubernetes import client, config

from tests.apiserver import ApiServer
from tests.apiserver.controller import Controller
from tests.apiserver.errors import ApiError
from tests.apiserver.kubelet import Kubelet, Life, runs
from tests.apiserver.logs import LogOptions
from tests.apiserver.processes import Processes
from tests.apiserver.resources import BY_KIND
from tests.apiserver.schema import check


def conditions(server: ApiServer, name: str = "demo") -> set[str]:
    status = server.store.get("PyTorchJob", name).get("status", {})
    return {c["type"] for c in status.get("conditions", ()) if c["status"] == "True"}


def events(server: ApiServer) -> list[str]:
    return [event["reason"] for event in server.store.all("Event")]


def test_pods_services_and_status_are_valid_and_owned(server, make_job, eventually):
    with Controller(server), Kubelet(server, runs(seconds=60)):
        server.store.create(make_job("demo", workers=2))
        eventually(lambda: "Running" in conditions(server))
        eventually(lambda: all(p["status"]["phase"] == "Running" for p in server.store.all("Pod")))
    job = server.store.get("PyTorchJob", "demo")
    pods, services = server.store.all("Pod"), server.store.all("Service")
    assert [pod["metadata"]["name"] for pod in pods] == [
        "demo-master-0",
        "demo-worker-0",
        "demo-worker-1",
    ]
    assert [service["metadata"]["name"] for service in services] == [
        pod["metadata"]["name"] for pod in pods
    ]
    for obj in (job, *pods, *services, *server.store.all("Event")):
        check(BY_KIND[obj["kind"]], obj, field_validation="Strict")
    for obj in (*pods, *services):
        assert obj["metadata"]["ownerReferences"][0]["uid"] == job["metadata"]["uid"]


@pytest.mark.parametrize(("code", "end"), [(1, "Failed"), (129, "Succeeded")])
def test_exit_codes_decide_whether_a_pod_is_made_anew(server, make_job, eventually, code, end):
    def script(life: Life) -> None:
        first = life.name == "demo-master-0" and life.attempt == 0
        runs(f"attempt {life.attempt}\n".encode(), exit_codes=[code if first else 0])(life)

    with Controller(server), Kubelet(server, script):
        server.store.create(make_job("demo"))
        eventually(lambda: conditions(server) & {"Failed", "Succeeded"})
    assert end in conditions(server)
    assert ("PyTorchJobRestarting" in events(server)) is (end == "Succeeded")


def test_an_evicted_pod_is_made_anew(server, make_job, eventually):
    def script(life: Life) -> None:
        life.schedule()
        life.start()
        if life.attempt == 0:
            life.evict("The node was low on resource: memory.")
        else:
            life.sleep(0.1)
            life.end(0)

    with Controller(server), Kubelet(server, script):
        server.store.create(make_job("demo", workers=0))
        eventually(lambda: "Succeeded" in conditions(server))
    assert "Evicted" in events(server)
    assert "SuccessfulDeletePod" in events(server)


def test_restarts_in_place_until_the_backoff_limit(server, make_job, eventually):
    job = make_job("demo", workers=0, restart_policy="OnFailure")
    job["spec"]["runPolicy"]["backoffLimit"] = 2
    script = runs(seconds=0.1, exit_codes=[1] * 100, restart_after=0.05)
    with Controller(server), Kubelet(server, script):
        server.store.create(job)
        eventually(lambda: "Failed" in conditions(server))
    message = server.store.get("PyTorchJob", "demo")["status"]["conditions"][-1]["message"]
    assert "backoff limit" in message


@pytest.mark.parametrize("tick", [None, 0.1])
def test_the_deadline_is_seen_only_by_one_who_looks(server, make_job, eventually, tick):
    job = make_job("demo", workers=0)
    job["spec"]["runPolicy"]["activeDeadlineSeconds"] = 1
    with Controller(server, tick=tick), Kubelet(server, runs(seconds=60)):
        server.store.create(job)
        eventually(lambda: "Running" in conditions(server))
        if tick:
            eventually(lambda: "Failed" in conditions(server) and not server.store.all("Pod"))
        else:
            time.sleep(1.5)
            assert "Failed" not in conditions(server)


def test_a_quota_keeps_pods_from_being_made_until_there_is_room(server, make_job, eventually):
    def quota(obj):
        if obj["kind"] == "Pod":
            raise ApiError(403, "exceeded quota: gpus, requested: 8, used: 8, limited: 8")
        return obj

    with Controller(server), Kubelet(server, runs()):
        make_room = server.admit(quota)
        server.store.create(make_job("demo"))
        eventually(lambda: "FailedCreatePod" in events(server))
        assert server.store.all("Pod") == []
        make_room()
        eventually(lambda: "Succeeded" in conditions(server))


def test_a_finished_job_goes_after_its_time_to_live(server, make_job, eventually):
    job = make_job("demo", workers=0)
    job["spec"]["runPolicy"]["ttlSecondsAfterFinished"] = 1
    with Controller(server), Kubelet(server, runs()):
        server.store.create(job)
        eventually(lambda: "Succeeded" in conditions(server))
        eventually(lambda: not server.store.all("PyTorchJob"))
    assert server.store.all("Pod") == []


def test_the_last_words_of_a_container_are_in_its_status(server, make_pod, eventually):
    pod = make_pod("a")
    pod["spec"]["restartPolicy"] = "Never"
    pod["spec"]["containers"][0]["terminationMessagePolicy"] = "FallbackToLogsOnError"
    with Kubelet(server, runs(b"error: no such folder\n", exit_codes=[2])):
        server.store.create(pod)
        eventually(lambda: server.store.get("Pod", "a")["status"]["phase"] == "Failed")
    terminated = server.store.get("Pod", "a")["status"]["containerStatuses"][0]["state"]
    assert terminated["terminated"]["message"] == "error: no such folder\n"


RENDEZVOUS = """
import os, socket, sys
from pathlib import Path

address = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
print("rank", os.environ["RANK"], Path(sys.argv[1]).read_text(), flush=True)
if os.environ["RANK"] == "0":
    with socket.create_server(address) as listener:
        listener.accept()[0].sendall(b"hello")
else:
    while True:
        try:
            print(socket.create_connection(address).recv(5).decode())
            break
        except ConnectionRefusedError:
            continue
"""


def test_processes_meet_and_read_their_config_map(server, make_job, eventually, tmp_path):
    config_map = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "config"},
        "data": {"text": "of the run", "main.py": RENDEZVOUS},
    }
    server.store.create(config_map)
    job = make_job("demo")
    for replica in job["spec"]["pytorchReplicaSpecs"].values():
        spec = replica["template"]["spec"]
        spec["volumes"] = [{"name": "run", "configMap": {"name": "config"}}]
        container = spec["containers"][0]
        container["volumeMounts"] = [{"name": "run", "mountPath": "/etc/run"}]
        container["command"] = ["python", "/etc/run/main.py", "/etc/run/text"]
    with Controller(server), Kubelet(server, Processes(server, tmp_path)):
        server.store.create(job)
        eventually(lambda: conditions(server) & {"Succeeded", "Failed"})
        logs = [log_of(server, name) for name in ("demo-master-0", "demo-worker-0")]
    assert "Succeeded" in conditions(server), logs
    assert logs == ["rank 0 of the run\n", "rank 1 of the run\nhello\n"]


def log_of(server: ApiServer, name: str) -> str:
    chunks = server.logs.read(server.store.get("Pod", name), LogOptions(), server.api.closing)
    return b"".join(chunks or ()).decode()


def test_deleting_a_job_ends_its_processes_with_grace(server, make_job, eventually, tmp_path):
    saved = tmp_path / "saved"
    command = f"trap 'touch {saved}; exit 143' TERM; echo up; while :; do sleep 0.05; done"
    with Controller(server), Kubelet(server, Processes(server, tmp_path)):
        server.store.create(make_job("demo", command, workers=0))
        eventually(lambda: "Running" in conditions(server))
        eventually(lambda: log_of(server, "demo-master-0") == "up\n")
        server.store.delete("PyTorchJob", "demo")
        eventually(lambda: not server.store.all("Pod"))
    assert saved.exists()


def test_a_killed_process_is_tried_again(server, make_job, eventually, tmp_path):
    """SIGKILL is 137, which `restartPolicy: ExitCode` retries."""
    mark = tmp_path / "mark"
    command = f"test -e {mark} || {{ touch {mark}; kill -9 $$; }}; echo again"
    with Controller(server), Kubelet(server, Processes(server, tmp_path)):
        server.store.create(make_job("demo", command, workers=0))
        eventually(lambda: "Succeeded" in conditions(server))
        assert log_of(server, "demo-master-0") == "again\n"
    assert "PyTorchJobRestarting" in events(server)


def test_more_gpus_than_there_are_stay_pending(server, make_job, eventually, tmp_path):
    job = make_job("demo", workers=0)
    container = job["spec"]["pytorchReplicaSpecs"]["Master"]["template"]["spec"]["containers"][0]
    container["resources"] = {"limits": {"nvidia.com/gpu": 1000}}
    with Controller(server), Kubelet(server, Processes(server, tmp_path)):
        server.store.create(job)
        eventually(lambda: "FailedScheduling" in events(server))
    assert server.store.get("Pod", "demo-master-0")["status"]["phase"] == "Pending"


def test_the_server_as_a_process(make_job, tmp_path):
    kubeconfig = tmp_path / "kubeconfig"
    root = Path(__file__).parents[3]
    environment = {**os.environ, "KUBECONFIG": str(kubeconfig), "HOME": str(tmp_path)}
    with subprocess.Popen(
        [sys.executable, "-m", "tests.apiserver", str(kubeconfig)],
        cwd=root,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert str(kubeconfig) in process.stdout.readline()
        api = client.CustomObjectsApi(config.new_client_from_config(str(kubeconfig)))
        where = ("kubeflow.org", "v1", "default", "pytorchjobs")
        api.create_namespaced_custom_object(*where, make_job("demo", "echo hello", workers=0))
        deadline = time.monotonic() + 20
        while "Succeeded" not in str(api.get_namespaced_custom_object(*where, "demo")):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
    assert process.returncode == 0
