"""A job has one MLflow run, however often it is restarted, and its metrics are there once."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from mlflow import MlflowClient

from florence.config.run import CurateRun
from florence.tracking import names
from florence.tracking.run import TrackedRun, open_run
from florence.util.errors import PreemptedError, UserError

RUN_YAML = "kind: curate\nname: x  # as it was written\n"


def start(run: CurateRun) -> TrackedRun:
    return open_run(run, run_yaml=RUN_YAML, data_fingerprints={"train": "f00d"})


def steps(client: MlflowClient, run_id: str, key: str) -> list[int]:
    return [metric.step for metric in client.get_metric_history(run_id, key)]


def test_a_run_holds_the_file_that_ran_its_params_and_its_lineage(client, make_run) -> None:
    run = make_run()
    with start(run) as tracked:
        tracked.set_tags({f"{names.DATA_FINGERPRINT}.val": "beef"})
    stored = client.get_run(tracked.run_id)

    text = Path(client.download_artifacts(tracked.run_id, "run.yaml")).read_text()
    assert text == RUN_YAML
    assert stored.info.status == "FINISHED"
    assert stored.info.run_name == run.job_name
    assert stored.data.params["source.image_size"] == "32"
    assert stored.data.params["tracking.system_metrics"] == "false"
    assert stored.data.params["output"] == "data/digits"
    expected = {
        names.JOB: run.job_name,
        names.FINGERPRINT: run.fingerprint,
        f"{names.DATA_FINGERPRINT}.train": "f00d",
        f"{names.DATA_FINGERPRINT}.val": "beef",
    }
    assert expected.items() <= stored.data.tags.items()
    assert expected.items() <= tracked.lineage.items()


def test_artifacts_lie_beside_a_local_store(client, make_run, tmp_path) -> None:
    note = tmp_path / "note.txt"
    note.write_text("hello")
    with start(make_run()) as tracked:
        tracked.log_figure(Figure(figsize=(1, 1)), "eval/confusion.png")
        tracked.log_text("a,b", "eval/table.csv")
        tracked.log_artifact(note, folder="notes")
    store = Path(client.tracking_uri.removeprefix("sqlite:///")).parent
    folder = store / "artifacts" / tracked.run_id / "artifacts"
    assert (folder / "eval/confusion.png").read_bytes().startswith(b"\x89PNG")
    assert (folder / "eval/table.csv").read_text() == "a,b"
    assert (folder / "notes/note.txt").read_text() == "hello"


def test_every_metric_arrives_in_order(client, make_run) -> None:
    with start(make_run()) as tracked:
        for step in range(1, 301):
            tracked.log_metrics({f"train/m{i}": step / 7 for i in range(10)}, step=step)
    history = client.get_metric_history(tracked.run_id, "train/m9")
    assert [(m.step, m.value) for m in history] == [(s, s / 7) for s in range(1, 301)]


def test_a_failed_attempt_is_continued_and_no_step_is_there_twice(client, make_run) -> None:
    first = start(make_run())
    for step in range(1, 8):
        first.log_metrics({"train/loss": 1 / step}, step=step)
    first.log_metrics({"eval/top1": 0.5}, step=5)
    with pytest.raises(ZeroDivisionError), first:
        raise ZeroDivisionError
    assert client.get_run(first.run_id).info.status == "FAILED"

    second = start(make_run())
    assert second.run_id == first.run_id
    assert client.get_run(first.run_id).info.status == "RUNNING"
    for step in range(5, 11):  # continues from the checkpoint of step 4
        second.log_metrics({"train/loss": 1 / step}, step=step)
    second.log_metrics({"eval/top1": 0.6}, step=10)
    second.finish()
    assert steps(client, first.run_id, "train/loss") == list(range(1, 11))
    assert steps(client, first.run_id, "eval/top1") == [5, 10]

    with start(make_run()) as third:
        assert third.run_id != first.run_id


def test_a_preempted_attempt_is_continued(client, make_run) -> None:
    with pytest.raises(PreemptedError), start(make_run()) as tracked:
        raise PreemptedError("SIGTERM")
    assert client.get_run(tracked.run_id).info.status == "KILLED"
    with start(make_run()) as again:
        assert again.run_id == tracked.run_id


def test_a_killed_attempt_is_continued(make_run) -> None:
    killed = start(make_run())  # nothing closes it, as after kill -9
    with start(make_run()) as again:
        assert again.run_id == killed.run_id


def test_the_newest_checkpoint_is_named_and_not_uploaded(client, make_run, tmp_path) -> None:
    with start(make_run()) as tracked:
        tracked.log_checkpoint(tmp_path / "a b" / "step-10", step=10)
        tracked.log_checkpoint("s3://bucket/step-20", step=20)
        tracked.flush()
        tags = client.get_run(tracked.run_id).data.tags
        assert tags[names.CHECKPOINT] == "s3://bucket/step-20"
        tracked.log_checkpoint(tmp_path / "a b" / "step-30", step=30)
    tags = client.get_run(tracked.run_id).data.tags
    assert tags[names.CHECKPOINT] == (tmp_path / "a b" / "step-30").as_uri()
    assert tags[names.CHECKPOINT_STEP] == "30"
    assert [item.path for item in client.list_artifacts(tracked.run_id)] == ["run.yaml"]


def test_a_metric_the_store_refuses_is_an_error_and_not_a_gap(make_run) -> None:
    tracked = start(make_run())
    tracked.log_metrics({"train/loss?": 1.0}, step=1)
    with pytest.raises(UserError, match=r"refused.*train/loss\?"):
        tracked.flush()
    with pytest.raises(UserError, match="refused"):
        tracked.log_metrics({"train/loss": 1.0}, step=2)


def test_the_error_that_ended_a_job_is_not_hidden_by_the_store(make_run) -> None:
    tracked = start(make_run())
    tracked.log_metrics({"train/loss?": 1.0}, step=1)
    with pytest.raises(ZeroDivisionError), tracked:
        raise ZeroDivisionError


def test_system_metrics_are_recorded(client, make_run, monkeypatch) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.1")
    with start(make_run(system_metrics=True)) as tracked:
        time.sleep(1)
    metrics = client.get_run(tracked.run_id).data.metrics
    assert 0 < metrics["system/system_memory_usage_percentage"] <= 100
    assert "system/cpu_utilization_percentage" in metrics


OPEN_TWICE = """
import os, sys
from florence.config.run import CurateRun
from florence.tracking.run import open_run
child = os.fork()  # mlflow is imported once only, which takes seconds
run = CurateRun(name="twin", output="x", tracking={"uri": sys.argv[1], "system_metrics": False})
print(open_run(run, run_yaml="", data_fingerprints={}).run_id, flush=True)
sys.exit(os.waitpid(child, 0)[1] if child else 0)
"""


def test_processes_that_open_a_job_at_once_share_one_run(tmp_path) -> None:
    uri = f"sqlite:///{tmp_path}/new folder/mlflow.db"  # its tables are made at once, too
    done = subprocess.run(
        [sys.executable, "-c", OPEN_TWICE, uri], capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.split()
    assert first == second


def test_importing_the_names_does_not_import_mlflow() -> None:
    code = "import sys, florence.tracking.names; print('mlflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.lower()) is False
