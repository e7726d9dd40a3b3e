"""How far a job's training has come, read from what its MLflow run has recorded."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from florence.tracking import names
from florence.tracking.store import connect, store_errors, store_exists


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Of the newest attempt, as of its last logged step."""

    step: int
    total_steps: int | None
    samples_per_second: float | None
    left: timedelta | None
    """Time to the last step at the present speed."""


def read_progress(uri: str, job: str) -> Progress | None:
    """Returns the progress of a job; None if its run has recorded no step, or there is no store.

    Raises InfrastructureError when the store does not answer.
    """
    if not store_exists(uri):
        return None
    client = connect(uri)
    with store_errors(uri):
        runs = client.search_runs(
            [experiment.experiment_id for experiment in client.search_experiments()],
            f"tags.`{names.JOB}` = '{job}'",
            max_results=1,
            order_by=["attributes.start_time DESC"],
        )
    if not runs:
        return None
    metrics, params = runs[0].data.metrics, runs[0].data.params
    # Private, but MLflow's only other way to a metric's last step is to read its whole history.
    steps = {metric.key: metric.step for metric in runs[0].data._metric_objs}
    if "train/loss" not in steps:
        return None
    step, rate = steps["train/loss"], metrics.get("perf/samples_per_s")
    total = _whole(params.get("training.total_steps"))
    batch = _whole(params.get("training.global_batch_size"))
    left = (
        timedelta(seconds=round((total - step) * batch / rate))
        if total and batch and rate
        else None
    )
    return Progress(step=step, total_steps=total, samples_per_second=rate, left=left)


def _whole(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdecimal() else None
