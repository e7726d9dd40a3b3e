"""The launcher's exit codes: the verdict as a table, and real torchrun agents with real ranks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from florence.launch.manifest import to_yaml
from florence.launcher import Outcome, RankFailure, judge, main

RUN = {
    "kind": "curate",
    "name": "stub",
    "output": "out",
    "cluster": {"processes_per_node": 2},
}
# A worker without torch starts at once; florence.worker reports its errors in the same way.
STUB = """
import json, os, signal, sys, time
rank, how = int(os.environ["RANK"]), open(sys.argv[1] + ".how").read()
print(f"rank {rank} is up", flush=True)
if rank == 1 and how == "user":
    error = "UserError: data.train = 'x' is no folder"
    record = {"message": error, "extraInfo": {"timestamp": int(time.time())}}
    json.dump({"message": record}, open(os.environ["TORCHELASTIC_ERROR_FILE"], "w"))
    sys.exit(2)
if rank == 1 and how == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
if how != "well":
    time.sleep(60)
"""


def failure(rank: int, exit_code: int, *, time: int = 100, message: str = "") -> RankFailure:
    return RankFailure(rank, exit_code, time, message)


@pytest.mark.parametrize(
    ("agent_code", "failures", "outcome"),
    [
        (0, [], Outcome(0, "")),
        (1, [], Outcome(1, "torchrun's agent failed; see the log above")),
        (-9, [], Outcome(137, "torchrun's agent was killed by SIGKILL")),
        (129, [], Outcome(129, "the nodes of the job did not find each other; see the log above")),
        # One rank.
        (1, [failure(0, 2, message="UserError: lr: too big")], Outcome(2, "lr: too big")),
        (1, [failure(0, 2)], Outcome(2, "")),
        (1, [failure(0, 129, message="InfrastructureError: gone")], Outcome(129, "gone")),
        (1, [failure(0, 143, message="Preempted: saved")], Outcome(143, "saved")),
        (1, [failure(3, 1, message="KeyError: 'x'")], Outcome(1, "rank 3: KeyError: 'x'")),
        (1, [failure(3, 7)], Outcome(7, "rank 3: exit code 7, see the log above")),
        (1, [failure(0, -9)], Outcome(137, "rank 0 was killed by SIGKILL (out of memory?)")),
        (1, [failure(0, -11)], Outcome(139, "rank 0 was killed by SIGSEGV")),
        # The others fail of the first one's absence, or are ended by the agent, which kills late.
        (1, [failure(0, 1), failure(1, 2)], Outcome(2, "")),
        (1, [failure(0, 1), failure(1, -6)], Outcome(134, "rank 1 was killed by SIGABRT")),
        (1, [failure(1, 129), failure(0, -15)], Outcome(129, "")),
        (1, [failure(1, 129), failure(0, -9, time=131)], Outcome(129, "")),
    ],
)
def test_verdict(agent_code: int, failures: list[RankFailure], outcome: Outcome) -> None:
    assert judge(agent_code, failures) == outcome


@pytest.mark.parametrize("arguments", [[], ["a", "b"], ["missing.yaml"]])
def test_wrong_arguments_are_the_users(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert capsys.readouterr().err.startswith("error: ")


def start(folder: Path, how: str) -> subprocess.Popen[str]:
    run_yaml = folder / "run.yaml"
    run_yaml.write_text(to_yaml([RUN]))
    Path(f"{run_yaml}.how").write_text(how)
    (folder / "stub.py").write_text(STUB)
    program = (
        "import sys, florence.launcher as launcher;"
        "launcher.WORKER = 'stub'; sys.exit(launcher.main(sys.argv[1:]))"
    )
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PET_")}
    return subprocess.Popen(
        [sys.executable, "-c", program, str(run_yaml)],
        env=environment | {"PYTHONPATH": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def alive(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


@pytest.mark.parametrize(
    ("how", "code", "last_line"),
    [
        ("well", 0, None),
        ("user", 2, "error: data.train = 'x' is no folder"),
        ("killed", 137, "error: rank 1 was killed by SIGKILL (out of memory?)"),
    ],
)
def test_real_ranks(tmp_path: Path, how: str, code: int, last_line: str | None) -> None:
    launcher = start(tmp_path, how)
    output, _ = launcher.communicate(timeout=60)
    assert launcher.returncode == code, output
    assert "rank 0 is up" in output
    if last_line:
        assert output.splitlines()[-1] == last_line


def test_sigterm_reaches_the_ranks_and_is_worth_another_try(tmp_path: Path) -> None:
    launcher = start(tmp_path, "hang")
    assert launcher.stdout is not None
    seen = ""
    while seen.count("is up") < 2:
        seen += launcher.stdout.readline()
    ranks = psutil.Process(launcher.pid).children(recursive=True)
    assert len(ranks) == 3  # the agent and two ranks
    launcher.send_signal(signal.SIGTERM)
    output, _ = launcher.communicate(timeout=30)
    assert launcher.returncode == 143
    assert output.splitlines()[-1] == "error: stopped by SIGTERM"
    assert not [rank for rank in ranks if alive(rank)]


def test_ranks_do_not_outlive_a_killed_launcher(tmp_path: Path) -> None:
    launcher = start(tmp_path, "hang")
    assert launcher.stdout is not None
    while "is up" not in launcher.stdout.readline():
        pass
    ranks = psutil.Process(launcher.pid).children(recursive=True)
    launcher.kill()
    deadline = time.monotonic() + 20
    while any(map(alive, ranks)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not [rank for rank in ranks if alive(rank)]
