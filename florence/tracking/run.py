"""The MLflow run of a job, written by rank 0: one run per job however often it is restarted."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor
from mlflow.tracking.context.registry import resolve_tags
from mlflow.utils.validation import MAX_PARAM_VAL_LENGTH, MAX_PARAMS_TAGS_PER_BATCH

from florence.config.run import BaseRun
from florence.tracking import names
from florence.tracking.lineage import flatten, lineage_tags
from florence.tracking.store import connect, exclusive, sqlite_path, store_errors
from florence.tracking.writer import RunWriter
from florence.util.errors import FlorenceError, PreemptedError

logger = logging.getLogger(__name__)

Status = Literal["FINISHED", "FAILED", "KILLED"]


class TrackedRun:
    """An open MLflow run; as a context manager it records how the attempt ended.

    Metrics and checkpoint references are written in the background; texts, figures and files at
    once. A failed or preempted attempt leaves the run unfinished, for the next one to continue.
    """

    def __init__(
        self,
        client: MlflowClient,
        run: Run,
        *,
        lineage: Mapping[str, str],
        system_metrics: bool,
    ) -> None:
        self.run_id: str = run.info.run_id
        self.experiment_id: str = run.info.experiment_id
        self.uri: str = client.tracking_uri
        self.lineage = dict(lineage)
        self._client = client
        # Private, but MLflow's only other way to a metric's last step is to read its whole history.
        self._last_step = {metric.key: metric.step for metric in run.data._metric_objs}
        self._writer = RunWriter(client, run_id=self.run_id)
        self._monitor: SystemMetricsMonitor | None = None
        if system_metrics:
            self._monitor = SystemMetricsMonitor(
                self.run_id, resume_logging=True, tracking_uri=self.uri
            )
            self._monitor.start()

    def log_metrics(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Records metrics of a step without waiting for the store.

        A step an earlier attempt has recorded is left out: training repeats it bit for bit, and
        MLflow would show it twice. Raises UserError when the store refused an earlier call.
        """
        now = time.time_ns() // 1_000_000
        self._writer.put(
            Metric(key, float(value), now, step)
            for key, value in metrics.items()
            if step > self._last_step.get(key, -1)
        )

    def log_checkpoint(self, path: str | Path, *, step: int) -> None:
        """Records where the newest checkpoint lies; nothing is uploaded."""
        uri = str(path) if "://" in str(path) else Path(path).resolve().as_uri()
        tags = {names.CHECKPOINT: uri, names.CHECKPOINT_STEP: str(step)}
        self._writer.put(RunTag(key, value) for key, value in tags.items())

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Sets tags of the run, which its model versions will carry too."""
        self.lineage |= tags
        self._writer.put(RunTag(key, value) for key, value in tags.items())

    def log_text(self, text: str, artifact: str) -> None:
        """Stores a text as the artifact of that path."""
        with store_errors(self.uri):
            self._client.log_text(self.run_id, text, artifact)

    def log_figure(self, figure: Any, artifact: str) -> None:
        """Stores a matplotlib figure as the artifact of that path (`.png`)."""
        with store_errors(self.uri):
            self._client.log_figure(self.run_id, figure, artifact)

    def log_artifact(self, path: Path, *, folder: str | None = None) -> None:
        """Stores a copy of a file, in a folder of the run's artifacts."""
        with store_errors(self.uri):
            self._client.log_artifact(self.run_id, str(path), folder)

    def flush(self) -> None:
        """Waits until the store has every metric; raises InfrastructureError when it cannot."""
        self._writer.flush()

    def finish(self, status: Status = "FINISHED") -> None:
        """Writes what is left and closes the run; only FINISHED keeps later attempts out."""
        if self._monitor is not None:
            self._monitor.finish()
        self._writer.close()
        with store_errors(self.uri):
            self._client.set_terminated(self.run_id, status)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            self.finish()
            return
        asked_to_end = isinstance(error, PreemptedError | KeyboardInterrupt)
        try:
            self.finish("KILLED" if asked_to_end else "FAILED")
        except FlorenceError as secondary:  # what ended the job matters more
            logger.warning("the run could not be closed: %s", secondary)


def open_run(run: BaseRun, *, run_yaml: str, data_fingerprints: Mapping[str, str]) -> TrackedRun:
    """Continues the job's unfinished MLflow run, or starts one; to be called on rank 0 only.

    `run_yaml` is the text of the file that runs, `data_fingerprints` maps names such as `train` to
    content hashes. Raises UserError for a bad address, InfrastructureError for a store that fails.
    """
    client = connect(run.tracking.uri)
    lineage = lineage_tags(run, data_fingerprints=data_fingerprints)
    with store_errors(client.tracking_uri):
        with exclusive(client.tracking_uri):
            run_id = _continue_or_create(client, run)
        _log_params(client, run_id, flatten(run.model_dump(mode="json")))
        client.log_batch(run_id, tags=[RunTag(key, value) for key, value in lineage.items()])
        client.log_text(run_id, run_yaml, names.RUN_YAML)
        return TrackedRun(
            client,
            client.get_run(run_id),
            lineage=lineage,
            system_metrics=run.tracking.system_metrics,
        )


def _continue_or_create(client: MlflowClient, run: BaseRun) -> str:
    experiment_id = _experiment(client, run.tracking.experiment)
    unfinished = client.search_runs(
        [experiment_id],
        f"tags.`{names.JOB}` = '{run.job_name}' AND attributes.status != 'FINISHED'",
        max_results=1,
        order_by=["attributes.start_time DESC"],
    )
    if not unfinished:
        tags = resolve_tags({names.JOB: run.job_name})  # adds the user and the command
        return str(client.create_run(experiment_id, tags=tags, run_name=run.job_name).info.run_id)
    run_id: str = unfinished[0].info.run_id
    client.update_run(run_id, status="RUNNING")
    return run_id


def _experiment(client: MlflowClient, name: str) -> str:
    path = sqlite_path(client.tracking_uri)
    # Without this, MLflow puts a local store's artifacts into whatever directory the job runs in.
    location = None if path is None else (path.parent / "artifacts").as_uri()
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        try:
            return client.create_experiment(name, artifact_location=location)
        except MlflowException as error:  # another job's first run was faster
            experiment = client.get_experiment_by_name(name)
            if experiment is None:
                raise error
    return str(experiment.experiment_id)


def _log_params(client: MlflowClient, run_id: str, params: Mapping[str, str]) -> None:
    entries = [Param(key, value[:MAX_PARAM_VAL_LENGTH]) for key, value in params.items()]
    for start in range(0, len(entries), MAX_PARAMS_TAGS_PER_BATCH):
        client.log_batch(run_id, params=entries[start : start + MAX_PARAMS_TAGS_PER_BATCH])
