"""The demo's own job files through the command line, shortened: train, kill, resume, serve."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

ROOT = Path(__file__).parents[2]
SHORT = (
    "--training.total_steps=60",
    "--training.global_batch_size=32",
    "--training.checkpoint_every=10",
    "--optim.warmup_steps=5",
    "--cluster.nodes=1",
    "--cluster.processes_per_node=2",
)

LOAD_IN_A_FRESH_PROCESS = """
import json, sys
import mlflow, pandas as pd
mlflow.set_tracking_uri("sqlite:///mlruns/mlflow.db")
model = mlflow.pyfunc.load_model("models:/florence-pico@candidate")
images = pd.DataFrame({"image": [open(path, "rb").read() for path in sys.argv[1:]]})
print(json.dumps(model.predict(images, params={"classes": ["three", "eight"]}).to_dict("list")))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, digits: Path) -> Path:
    """A folder with a space in its name, the job files and the digits."""
    folder = tmp_path_factory.mktemp("a project")
    shutil.copytree(ROOT / "jobs", folder / "jobs")
    shutil.copytree(digits, folder / "data" / "digits")
    return folder


@pytest.fixture(scope="module")
def trained(folder: Path) -> dict[str, Any]:
    """The summary of a run that nothing disturbed."""
    return submit(folder, "demo")


def florence(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "florence.cli", *words]
    return subprocess.run(command, cwd=folder, text=True, capture_output=True, check=False)


def submit(folder: Path, name: str, *words: str) -> dict[str, Any]:
    finished = florence(
        folder, "submit", "jobs/demo.yaml", "--follow", "--name", name, *SHORT, *words
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    summary: dict[str, Any] = json.loads((folder / "runs" / name / "summary.json").read_text())
    return summary


def processes_of(job: Path) -> list[psutil.Process]:
    """Everything that runs for a job: its supervisor, launcher, agent, ranks."""
    found = []
    for process in psutil.process_iter():
        try:
            if any(str(job) in word for word in [*process.cmdline(), *process.environ().values()]):
                found.append(process)
        except psutil.Error:
            continue
    return [process for process in found if process.pid != os.getpid()]


@pytest.mark.timeout(600)
def test_a_killed_job_ends_as_if_nothing_had_happened(
    folder: Path, trained: dict[str, Any]
) -> None:
    started = florence(folder, "submit", "jobs/demo.yaml", "--name", "killed", *SHORT)
    assert started.returncode == 0, started.stderr
    job = (folder / "runs" / "killed").resolve()
    deadline = time.monotonic() + 200
    while not list(job.glob("checkpoints/step-*")):
        assert time.monotonic() < deadline, florence(folder, "jobs", "logs", "killed").stdout
        time.sleep(0.05)
    for process in processes_of(job):
        process.send_signal(signal.SIGKILL)
    assert "Failed (SupervisorLost)" in florence(folder, "jobs", "status", "killed").stdout
    assert not (job / "summary.json").exists()

    resumed = submit(folder, "killed")

    log = florence(folder, "jobs", "logs", "killed").stdout
    assert "resumed from step" in log
    assert resumed["loss"] == trained["loss"]
    weights = "model/model.safetensors"
    expected = (folder / "runs" / "demo" / weights).read_bytes()
    assert (job / weights).read_bytes() == expected
    assert resumed["model_version"] == trained["model_version"] + 1


def test_the_registered_model_scores_images_in_a_fresh_process(
    folder: Path, trained: dict[str, Any]
) -> None:
    assert trained["model"] == "florence-pico"
    assert "candidate" in trained["model_aliases"]
    images = sorted((folder / "data" / "digits" / "source").glob("**/*.png"))[:3]
    loaded = subprocess.run(
        [sys.executable, "-c", LOAD_IN_A_FRESH_PROCESS, *map(str, images)],
        cwd=folder,
        text=True,
        capture_output=True,
        check=True,
    )
    answers = json.loads(loaded.stdout.splitlines()[-1])
    columns = (answers["label"], answers["score"], answers["scores"])
    for label, score, scores in zip(*columns, strict=True):
        assert sum(scores) == pytest.approx(1)
        assert score == max(scores) == scores[["three", "eight"].index(label)]


def test_models_are_listed_and_shown(folder: Path, trained: dict[str, Any]) -> None:
    listed = florence(folder, "models", "list", "--json")
    assert [model["name"] for model in json.loads(listed.stdout)] == ["florence-pico"]
    shown = json.loads(florence(folder, "models", "show", "florence-pico/1", "--json").stdout)
    assert shown["metrics"]["eval/digits_zero_shot/top1"] == trained["zero_shot_top1"]
    assert shown["tags"]["florence.job"].startswith("florence-demo-")


def test_a_registered_model_is_evaluated_by_a_job_of_its_own(
    folder: Path, trained: dict[str, Any]
) -> None:
    job = folder / "evaluate.yaml"
    job.write_text(
        "kind: evaluate\nname: evaluate\nmodel_uri: models:/florence-pico/1\n"
        "evaluation: [{dataset: digits, path: data/digits/val}]\n"
        "cluster: {processes_per_node: 2}\n"
    )
    finished = florence(folder, "submit", str(job), "--follow")
    assert finished.returncode == 0, finished.stdout + finished.stderr
    summary = json.loads((folder / "runs" / "evaluate" / "summary.json").read_text())
    assert summary["zero_shot_top1"] == trained["zero_shot_top1"]


def test_a_wrong_path_fails_once_with_one_sentence(folder: Path) -> None:
    finished = florence(
        folder,
        "submit",
        "jobs/demo.yaml",
        "--follow",
        "--name",
        "typo",
        *SHORT,
        "--data.train",
        "data/digts/train",
    )
    assert finished.returncode == 3
    assert "data.train = 'data/digts/train' is not a folder" in finished.stderr
    assert "Traceback" not in finished.stderr
    status = json.loads(florence(folder, "jobs", "status", "typo", "--json").stdout)
    assert status["restarts"] == 0
