"""The local backend with real processes: PyTorchJobs written by hand whose command is a script."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from florence.launch.backend import LogLine
from florence.launch.local import LocalBackend
from florence.launch.local_pod import MARK
from florence.launch.manifest import JobManifest, Manifest
from florence.launch.status import JobState, JobStatus
from florence.util.errors import UserError


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return tmp_path / "my runs"  # a space, as in any home directory


@pytest.fixture
def backend(runs: Path) -> Iterator[LocalBackend]:
    backend = LocalBackend(runs)
    yield backend
    for job in backend.list():
        backend.cancel(job.name)
    assert not processes_of(runs)


def shell(
    name: str,
    script: str,
    *,
    workers: int = 0,
    restart: str = "ExitCode",
    grace: int = 5,
    mounts: dict[str, Manifest] | None = None,
    config: dict[str, str] | None = None,
    **policy: Any,
) -> JobManifest:
    """A job whose pods run a shell script; `mounts` maps paths to volume sources."""
    sources = mounts or {}
    names = {path: f"volume-{index}" for index, path in enumerate(sources)}
    template = {
        "spec": {
            "terminationGracePeriodSeconds": grace,
            "containers": [
                {
                    "name": "pytorch",
                    "image": "any",
                    "command": ["sh", "-c", script],
                    "volumeMounts": [{"name": n, "mountPath": p} for p, n in names.items()],
                }
            ],
            "volumes": [{"name": names[path]} | source for path, source in sources.items()],
        }
    }
    specs = {"Master": {"replicas": 1, "restartPolicy": restart, "template": template}}
    if workers:
        specs["Worker"] = {"replicas": workers, "restartPolicy": restart, "template": template}
    job = {
        "apiVersion": "kubeflow.org/v1",
        "kind": "PyTorchJob",
        "metadata": {"name": name},
        "spec": {
            "runPolicy": {"cleanPodPolicy": "Running"} | policy,
            "pytorchReplicaSpecs": specs,
        },
    }
    config_map = {"kind": "ConfigMap", "metadata": {"name": "files"}, "data": config}
    return JobManifest(job, (config_map,) if config else ())


def processes_of(runs: Path) -> list[psutil.Process]:
    """Everything alive that belongs to a job under `runs`, supervisors included."""

    def belongs(process: psutil.Process) -> bool:
        try:
            marked = process.environ().get(MARK, "").startswith(f"{runs}/")
            return marked or any(str(runs) in word for word in process.cmdline())
        except psutil.Error:
            return False

    return [p for p in psutil.process_iter() if p.pid != os.getpid() and belongs(p)]


def supervisor_of(runs: Path) -> psutil.Process:
    found = [p for p in processes_of(runs) if "florence.launch.local_supervisor" in p.cmdline()]
    assert len(found) == 1
    return found[0]


def alive(process: psutil.Process) -> bool:
    """Whether it runs; one that only waits for its parent to notice does not."""
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def until(condition: Callable[[], object], *, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def finish(backend: LocalBackend, manifest: JobManifest) -> JobStatus:
    backend.submit(manifest)
    return backend.wait(manifest.job["metadata"]["name"], timeout=20)


def lines(backend: LocalBackend, name: str, pod: str = "master-0") -> list[str]:
    return [line for found, line in backend.logs(name) if found == f"{name}-{pod}"]


def test_two_nodes_see_the_operators_environment(backend: LocalBackend, tmp_path: Path) -> None:
    script = "echo $RANK $WORLD_SIZE $MASTER_ADDR $PET_NNODES $PET_NODE_RANK; echo $MASTER_PORT"
    go = tmp_path / "go"
    last = f'; while [ "$RANK" = 0 ] && [ ! -e "{go}" ]; do sleep 0.1; done'
    backend.submit(shell("pair", script + last, workers=1))
    worker = "pair-worker-0"
    until(lambda: {p.name: p.phase for p in backend.status("pair").pods}.get(worker) == "Succeeded")
    go.touch()  # the master's end would end the worker
    status = backend.wait("pair", timeout=20)
    assert status.state is JobState.SUCCEEDED
    assert [pod.phase for pod in status.pods] == ["Succeeded", "Succeeded"]
    first, second = lines(backend, "pair"), lines(backend, "pair", "worker-0")
    assert (first[0], second[0]) == ("0 2 127.0.0.1 2 0", "1 2 127.0.0.1 2 1")
    assert first[1] == second[1] != "23456"


def test_volumes_become_folders(backend: LocalBackend, tmp_path: Path) -> None:
    (tmp_path / "host").mkdir()
    manifest = shell(
        "volumes",
        'cp "$1"/greeting "$2/copy" && cat "$2/copy" && pwd && touch "$3"',
        mounts={
            "/etc/config": {"configMap": {"name": "files"}},
            "/scratch": {"emptyDir": {}},
            "/host": {"hostPath": {"path": str(tmp_path / "host")}},
        },
        config={"greeting": "hello\n"},
    )
    for replica in manifest.job["spec"]["pytorchReplicaSpecs"].values():
        container = replica["template"]["spec"]["containers"][0]
        container["args"] = ["sh", "/etc/config", "/scratch", "/host/made"]
    assert finish(backend, manifest).state is JobState.SUCCEEDED
    assert lines(backend, "volumes") == ["hello", os.getcwd()]
    assert (tmp_path / "host" / "made").exists()


def test_exit_code_policy_retries_130_and_not_2(backend: LocalBackend, tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    script = f"if [ -e {flag} ]; then echo again; else touch {flag}; echo once; exit 130; fi"
    status = finish(backend, shell("retried", script))
    assert (status.state, status.restarts) == (JobState.SUCCEEDED, 1)
    assert lines(backend, "retried") == [
        "once",
        "",
        "--- restart 1 of retried-master-0 ---",
        "again",
    ]
    status = finish(backend, shell("refused", "echo 'error: lr = -1; allowed: > 0'; exit 2"))
    assert (status.state, status.restarts) == (JobState.FAILED, 0)
    assert (status.reason, status.message) == ("PyTorchJobFailed", "lr = -1; allowed: > 0")
    assert status.finished is not None


def test_on_failure_restarts_in_place_up_to_the_limit(backend: LocalBackend) -> None:
    manifest = shell("looping", "echo up; exit 1", restart="OnFailure", backoffLimit=1)
    status = finish(backend, manifest)
    assert (status.state, status.restarts) == (JobState.FAILED, 1)


def test_failure_of_one_ends_the_others(backend: LocalBackend, runs: Path) -> None:
    script = 'if [ "$RANK" = 1 ]; then sleep 0.5; exit 3; fi; sleep 100'
    status = finish(backend, shell("partner", script, workers=1))
    assert status.state is JobState.FAILED
    until(lambda: not processes_of(runs))
    assert {pod.name: pod.exit_code for pod in backend.status("partner").pods} == {
        "partner-master-0": 143,
        "partner-worker-0": 3,
    }


def test_a_container_takes_what_it_started_with_it(backend: LocalBackend, runs: Path) -> None:
    status = finish(backend, shell("parent", "setsid sleep 100 & echo done"))
    assert status.state is JobState.SUCCEEDED
    until(lambda: not processes_of(runs))


def test_submit_is_idempotent(backend: LocalBackend, runs: Path) -> None:
    manifest = shell("same", "sleep 0.5; echo ran")
    assert backend.submit(manifest).outcome == "started"
    assert backend.submit(manifest).outcome == "live"
    backend.wait("same", timeout=10)
    until(lambda: not processes_of(runs))
    (runs / "same" / "checkpoints").mkdir()
    done = backend.submit(manifest)
    assert (done.outcome, done.status.state) == ("done", JobState.SUCCEEDED)
    assert backend.submit(manifest, rerun=True).outcome == "started"
    assert not (runs / "same" / "checkpoints").exists()
    assert backend.wait("same", timeout=10).state is JobState.SUCCEEDED
    assert lines(backend, "same") == ["ran"]


def test_rerun_ends_a_live_job_first(backend: LocalBackend, runs: Path) -> None:
    backend.submit(shell("again", "sleep 100"))
    backend.wait("again", states={JobState.RUNNING}, timeout=10)
    before = supervisor_of(runs)
    assert backend.submit(shell("again", "echo new"), rerun=True).outcome == "started"
    assert not alive(before)
    assert backend.wait("again", timeout=10).state is JobState.SUCCEEDED


def test_concurrent_submits_start_one_supervisor(backend: LocalBackend, runs: Path) -> None:
    manifest = shell("race", "sleep 100")
    outcomes: list[str] = []
    threads = [
        threading.Thread(target=lambda: outcomes.append(backend.submit(manifest).outcome))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["live"] * 7 + ["started"]
    assert supervisor_of(runs)


def test_killed_supervisor_takes_all_along_and_is_reported(
    backend: LocalBackend, runs: Path
) -> None:
    script = "setsid sleep 100 & echo up; sleep 100"
    manifest = shell("lost", script, workers=1)
    backend.submit(manifest)
    until(lambda: lines(backend, "lost") == lines(backend, "lost", "worker-0") == ["up"])
    (runs / "lost" / "checkpoints").mkdir()
    supervisor_of(runs).kill()
    until(lambda: not processes_of(runs))
    status = backend.status("lost")
    assert (status.state, status.reason) == (JobState.FAILED, "SupervisorLost")
    assert "submit the job again" in status.message
    assert backend.submit(manifest).outcome == "resumed"
    assert (runs / "lost" / "checkpoints").exists()
    assert (runs / "lost" / "logs.1" / "lost-master-0.log").read_text() == "up\n"
    assert backend.wait("lost", states={JobState.RUNNING}, timeout=10).state is JobState.RUNNING


def test_submit_ends_what_even_a_killed_tree_left(backend: LocalBackend, runs: Path) -> None:
    manifest = shell("orphans", "setsid sleep 100 & echo up; sleep 100")
    backend.submit(manifest)
    until(lambda: sum("sleep" in p.name() for p in processes_of(runs)) == 2)
    tree = [supervisor_of(runs), *supervisor_of(runs).children()]
    for process in tree:
        process.suspend()  # so that neither can clean up after the other
    for process in tree:
        process.kill()
    until(lambda: not any(map(alive, tree)))
    until(lambda: {process.name() for process in processes_of(runs)} == {"sleep"})
    left = processes_of(runs)
    backend.submit(manifest)
    assert not any(map(alive, left))


def test_cancel_gives_grace_then_kills(backend: LocalBackend, runs: Path, tmp_path: Path) -> None:
    saving = f"sleep 0.3; touch '{tmp_path}/saved'; exit 143"
    for name, trap in (("polite", saving), ("stubborn", "")):
        script = f'trap "{trap}" TERM; echo up; while :; do sleep 0.1; done'
        backend.submit(shell(name, script, grace=1))
    for name in ("polite", "stubborn"):
        until(lambda name=name: lines(backend, name) == ["up"])  # type: ignore[misc]
    status = backend.cancel("polite")
    assert (status.state, status.reason) == (JobState.FAILED, "Cancelled")
    assert (tmp_path / "saved").exists()
    status = backend.cancel("stubborn")
    assert (status.reason, status.pods[0].exit_code) == ("Cancelled", 137)
    assert not processes_of(runs)
    assert {job.name for job in backend.list()} == {"polite", "stubborn"}
    assert backend.submit(shell("polite", "true")).outcome == "resumed"


def test_sigterm_to_the_supervisor_cancels(backend: LocalBackend, runs: Path) -> None:
    backend.submit(shell("shutdown", "sleep 100"))
    backend.wait("shutdown", states={JobState.RUNNING}, timeout=10)
    supervisor_of(runs).send_signal(signal.SIGTERM)
    until(lambda: not processes_of(runs))
    assert backend.status("shutdown").reason == "Cancelled"


def test_another_process_follows_while_it_runs(backend: LocalBackend, runs: Path) -> None:
    loop = 'i=0; while [ $i -lt 300 ]; do i=$((i+1)); echo "$RANK line $i"; done'
    script = f'{loop}; printf "$RANK last"'
    slow = f'[ "$RANK" = 0 ] || sleep 0.7; {script}'
    program = (
        "import sys; from florence.launch.local import LocalBackend\n"
        "for pod, line in LocalBackend(sys.argv[1]).logs('talk', follow=True):\n"
        "    print(pod, line, sep='|', flush=True)"
    )
    backend.submit(shell("talk", slow + '; [ "$RANK" = 0 ] && sleep 2; true', workers=1))
    follower = subprocess.Popen(
        [sys.executable, "-c", program, str(runs)], stdout=subprocess.PIPE, text=True
    )
    assert follower.stdout is not None
    assert follower.stdout.readline() == "talk-master-0|0 line 1\n"
    assert backend.status("talk").state in (JobState.RUNNING, JobState.STARTING)
    found = ["talk-master-0|0 line 1", *follower.stdout.read().splitlines()]
    assert follower.wait(timeout=10) == 0
    for pod, rank in (("talk-master-0", 0), ("talk-worker-0", 1)):
        expected = [f"{pod}|{rank} line {i}" for i in range(1, 301)] + [f"{pod}|{rank} last"]
        assert [line for line in found if line.startswith(pod)] == expected
    assert len(found) == 602


def test_tail_and_detaching(backend: LocalBackend) -> None:
    backend.submit(shell("counting", "seq 1 100000; sleep 100"))
    until(lambda: len(lines(backend, "counting")) == 100000)
    assert [line for _, line in backend.logs("counting", tail=2)] == ["99999", "100000"]
    follower = backend.logs("counting", follow=True, tail=1)
    assert next(follower) == LogLine("counting-master-0", "100000")
    follower.close()  # type: ignore[attr-defined]  # as Ctrl-C does: the job goes on
    assert backend.status("counting").state is JobState.RUNNING


def test_wait_times_out_exactly(backend: LocalBackend) -> None:
    backend.submit(shell("slow", "sleep 100"))
    start = time.monotonic()
    with pytest.raises(TimeoutError, match="slow"):
        backend.wait("slow", timeout=0.35)
    assert 0.35 <= time.monotonic() - start < 0.6


def test_a_run_name_links_to_its_newest_job(backend: LocalBackend, runs: Path) -> None:
    for name in ("demo-1", "demo-2"):
        manifest = shell(name, "true")
        manifest.job["metadata"]["labels"] = {"florence/run": "demo"}
        finish(backend, manifest)
    assert os.readlink(runs / "demo") == "demo-2"
    assert backend.status("demo").name == "demo-2"
    assert [job.name for job in backend.list()][:2] in (["demo-1", "demo-2"], ["demo-2", "demo-1"])
    backend.delete("demo-2")
    assert not (runs / "demo").is_symlink()
    (runs / "demo").mkdir()
    backend.submit(manifest)
    assert (runs / "demo").is_dir()
    assert not (runs / "demo").is_symlink()


def test_unknown_names_are_refused_with_the_nearest(backend: LocalBackend) -> None:
    finish(backend, shell("digits", "true"))
    with pytest.raises(UserError, match=r"no job named 'digit'; did you mean 'digits'\?"):
        backend.status("digit")
    with pytest.raises(UserError, match="no job named"):
        backend.status("../digits")


def test_real_torchrun_reduces_over_two_nodes(backend: LocalBackend, tmp_path: Path) -> None:
    program = tmp_path / "reduce.py"
    program.write_text(
        "import torch, torch.distributed as dist\n"
        "dist.init_process_group('gloo')\n"
        "value = torch.ones(1) * (dist.get_rank() + 1)\n"
        "dist.all_reduce(value)\n"
        "print('sum', value.item(), flush=True)\n"
        "dist.destroy_process_group()\n"
    )
    manifest = shell("reduce", f'python -m torch.distributed.run "{program}"', workers=1)
    manifest.job["spec"]["nprocPerNode"] = "1"
    backend.submit(manifest)
    assert backend.wait("reduce", timeout=60).state is JobState.SUCCEEDED
    assert "sum 3.0" in lines(backend, "reduce")
