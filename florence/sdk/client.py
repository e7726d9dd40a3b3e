"""Submit jobs, watch them, look models up: the verbs of `florence` for Python programs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import yaml

from florence.config.resolve import client_settings, read_text, resolve
from florence.config.run import BaseRun
from florence.launch.backend import Backend
from florence.launch.doctor import Finding, examine_cluster, examine_machine
from florence.launch.manifest import JobManifest, read_manifest
from florence.launch.pytorchjob import RUN_FILE, for_cluster, render
from florence.launch.status import JobStatus
from florence.sdk.job import Job
from florence.util.errors import UserError

if TYPE_CHECKING:
    from florence.tracking.registry import ModelSummary, ModelVersion

BackendName = Literal["local", "kubernetes"]


class Submitted(NamedTuple):
    """A job and what submitting it did."""

    job: Job
    outcome: Literal["started", "resumed", "live", "done"]


class FlorenceClient:
    """A client of one place that runs jobs and of the MLflow store that keeps the models.

    Where jobs and models are kept comes from `FLORENCE_RUNS_DIR`, `FLORENCE_TRACKING__URI` and,
    on Kubernetes, `namespace` or else `FLORENCE_CLUSTER__NAMESPACE`.
    """

    def __init__(self, *, backend: BackendName = "local", namespace: str | None = None) -> None:
        self._settings = client_settings()
        self._runs_dir = Path(self._settings.runs_dir)
        self._backend_name = backend
        self._namespace = namespace or self._settings.cluster.namespace

    def render(self, job: str | Path | BaseRun, overrides: Sequence[str] = ()) -> JobManifest:
        """Returns the manifest a job file or run becomes; a PyTorchJob file is read as it is."""
        if isinstance(job, BaseRun):
            return self._render(job)
        text = read_text(job)
        if re.search(r"^apiVersion:", text, re.MULTILINE):
            return read_manifest(text, source=str(job))
        return self._render(resolve(job, overrides))

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
        manifest = self.render(job, overrides)
        if self._backend_name == "local":
            self._check_runs_dir(manifest)
        namespace = self._namespace_of(manifest)
        submission = self._backend(namespace).submit(manifest, rerun=rerun)
        return Submitted(self._job(submission.status.name, namespace), submission.outcome)

    def diff(self, manifest: JobManifest) -> str:
        """Returns how a rendered manifest differs from what the cluster has under its name."""
        return self._backend(self._namespace_of(manifest)).diff(manifest)

    def jobs(self, *, selector: str | None = None) -> Sequence[JobStatus]:
        """Returns every job a label selector matches, the newest first."""
        return self._backend(self._namespace).list(selector=selector)

    def job(self, name: str) -> Job:
        """Returns the job with that name, or the newest one of the run with that name."""
        status = self._backend(self._namespace).status(name)
        return self._job(status.name, self._namespace)

    def models(self) -> list[ModelSummary]:
        """Returns every registered model, by name."""
        from florence.tracking.registry import list_models  # imports mlflow, which takes seconds

        return list_models(self._settings.tracking.uri)

    def model(self, reference: str) -> ModelVersion:
        """Returns a model version by NAME (the newest), NAME@ALIAS or NAME/VERSION."""
        from florence.tracking.registry import show_model

        return show_model(self._settings.tracking.uri, reference)

    def _render(self, run: BaseRun) -> JobManifest:
        return render(run if self._backend_name == "local" else for_cluster(run))

    def _job(self, name: str, namespace: str) -> Job:
        on_kubernetes = f" --backend kubernetes --namespace {namespace}"
        return Job(
            name,
            backend=self._backend(namespace),
            folder=self._runs_dir / name,
            tracking_uri=self._settings.tracking.uri,
            options="" if self._backend_name == "local" else on_kubernetes,
        )

    def examine(self) -> Iterator[Finding]:
        """Looks, one by one, at what jobs need here."""
        uri = self._settings.tracking.uri
        if self._backend_name == "local":
            return examine_machine(runs_dir=self._runs_dir, tracking_uri=uri)
        queue = self._settings.cluster.queue
        return examine_cluster(self._namespace, queue=queue, tracking_uri=uri)

    def _namespace_of(self, manifest: JobManifest) -> str:
        return str(manifest.job["metadata"].get("namespace") or self._namespace)

    def _check_runs_dir(self, manifest: JobManifest) -> None:
        for config_map in manifest.config_maps:
            if (text := (config_map.get("data") or {}).get(RUN_FILE)) is None:
                continue
            found = (yaml.safe_load(text) or {}).get("runs_dir")
            if found is not None and Path(found).absolute() != self._runs_dir.absolute():
                raise UserError(
                    f"runs_dir = {found!r} in the job, but {str(self._runs_dir)!r} here: list and "
                    f"summary would not find it; set FLORENCE_RUNS_DIR={found}"
                )

    @cache  # noqa: B019 - a client lives as long as its program
    def _backend(self, namespace: str) -> Backend:
        if self._backend_name == "local":
            from florence.launch.local import LocalBackend

            return LocalBackend(self._runs_dir)
        from florence.launch.kubernetes import KubernetesBackend  # a second of imports

        return KubernetesBackend(namespace)
