"""Submit jobs, watch them, look models up: the verbs of `florence` for Python programs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from florence.config.resolve import client_settings, read_text, resolve
from florence.config.run import BaseRun
from florence.launch.backend import Backend
from florence.launch.manifest import JobManifest, read_manifest
from florence.launch.pytorchjob import render
from florence.launch.status import JobStatus
from florence.sdk.job import Job

if TYPE_CHECKING:
    from florence.tracking.registry import ModelSummary, ModelVersion

BackendName = Literal["local", "kubernetes"]


class Submitted(NamedTuple):
    """A job and what submitting it did."""

    job: Job
    outcome: Literal["started", "resumed", "live", "done"]


class FlorenceClient:
    """A client of one place that runs jobs and of the MLflow store that keeps the models.

    Where jobs and models are kept comes from `FLORENCE_RUNS_DIR` and `FLORENCE_TRACKING__URI`.
    """

    def __init__(self, *, backend: BackendName = "local") -> None:
        self._settings = client_settings()
        self._runs_dir = Path(self._settings.runs_dir)
        self._backend = _build_backend(backend, runs_dir=self._runs_dir)

    def render(self, job: str | Path | BaseRun, overrides: Sequence[str] = ()) -> JobManifest:
        """Returns the manifest a job file or run becomes; a PyTorchJob file is read as it is."""
        if isinstance(job, BaseRun):
            return render(job)
        text = read_text(job)
        if re.search(r"^apiVersion:", text, re.MULTILINE):
            return read_manifest(text, source=str(job))
        return render(resolve(job, overrides))

    def submit(
        self,
        job: str | Path | BaseRun,
        overrides: Sequence[str] = (),
        *,
        rerun: bool = False,
    ) -> Submitted:
        """Starts a job; the same run is the same job, so submitting twice starts it once.

        A job that failed or was killed continues from its last checkpoint; `rerun` starts a
        finished one from the beginning. `overrides` are `--section.field value` words.
        """
        submission = self._backend.submit(self.render(job, overrides), rerun=rerun)
        return Submitted(self._job(submission.status.name), submission.outcome)

    def jobs(self) -> tuple[JobStatus, ...]:
        """Returns every job, the newest first."""
        return self._backend.list()

    def job(self, name: str) -> Job:
        """Returns the job with that name, or the newest one of the run with that name."""
        return self._job(self._backend.status(name).name)

    def models(self) -> list[ModelSummary]:
        """Returns every registered model, by name."""
        from florence.tracking.registry import list_models  # imports mlflow, which takes seconds

        return list_models(self._settings.tracking.uri)

    def model(self, reference: str) -> ModelVersion:
        """Returns a model version by NAME (the newest), NAME@ALIAS or NAME/VERSION."""
        from florence.tracking.registry import show_model

        return show_model(self._settings.tracking.uri, reference)

    def _job(self, name: str) -> Job:
        return Job(name, backend=self._backend, folder=self._runs_dir / name)


def _build_backend(name: BackendName, *, runs_dir: Path) -> Backend:
    from florence.launch.local import LocalBackend

    return LocalBackend(runs_dir)
