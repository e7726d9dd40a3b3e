"""How far a job has come, from what its run has recorded."""

from __future__ import annotations

from datetime import timedelta

from mlflow.entities import Param

from florence.tracking.progress import read_progress
from florence.tracking.run import open_run


def test_progress_is_that_of_the_last_logged_step(client, make_run) -> None:
    run = make_run()
    assert read_progress(run.tracking.uri, run.job_name) is None
    with open_run(run, run_yaml="", data_fingerprints={}) as tracked:
        assert read_progress(run.tracking.uri, run.job_name) is None
        for step in (10, 20):
            metrics = {"train/loss": 1.0, "perf/samples_per_s": 40.0}
            tracked.log_metrics(metrics, step=step)
        tracked.flush()
        params = {"training.total_steps": "100", "training.global_batch_size": "8"}
        client.log_batch(tracked.run_id, params=[Param(k, v) for k, v in params.items()])
        progress = read_progress(run.tracking.uri, run.job_name)
    assert progress is not None
    assert (progress.step, progress.total_steps) == (20, 100)
    assert progress.samples_per_second == 40.0
    assert progress.left == timedelta(seconds=16)


def test_no_store_is_made_by_asking(tmp_path) -> None:
    assert read_progress(f"sqlite:///{tmp_path}/mlflow.db", "job") is None
    assert not list(tmp_path.iterdir())
