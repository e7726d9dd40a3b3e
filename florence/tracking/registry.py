"""The model registry: register what a run has trained, list it, show it, fetch its weights."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import mlflow
import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import model_registry
from mlflow.models import Model, infer_signature

import florence
from florence.tracking import names, pyfunc
from florence.tracking.run import TrackedRun
from florence.tracking.store import connect, store_errors, store_exists
from florence.util.errors import UserError, nearest


@dataclass(frozen=True)
class ModelSummary:
    """A registered model in a list."""

    name: str
    latest_version: int
    aliases: Mapping[str, int]
    updated: datetime
    description: str


@dataclass(frozen=True)
class ModelVersion:
    """One version of a registered model and where it comes from."""

    name: str
    version: int
    aliases: tuple[str, ...]
    created: datetime
    run_id: str
    description: str
    tags: Mapping[str, str]
    metrics: Mapping[str, float]

    @property
    def uri(self) -> str:
        """What `mlflow.pyfunc.load_model` takes; unlike an alias, it always means this version."""
        return f"models:/{self.name}/{self.version}"


class ResolvedModel(NamedTuple):
    """A version on local disk."""

    version: ModelVersion
    path: Path


@dataclass(frozen=True)
class Servable:
    """What a version consists of: a folder, and how it is asked."""

    model_dir: Path
    """Weights, configuration, tokenizer: whatever the predictor reads."""
    predictor: str
    """The "package.module:Class" that meets `pyfunc.Predictor`."""
    images: Sequence[bytes]
    """A few encoded images, kept as the input example."""
    params: Mapping[str, Any]
    """What a caller may pass beside images, with defaults: `{"classes": ["cat", "dog"]}`."""
    requirements: Sequence[str]
    """Packages the predictor needs; they are recorded in their installed versions."""

    @property
    def example(self) -> pd.DataFrame:
        """The input example as the table a caller passes."""
        return pd.DataFrame({pyfunc.IMAGE: list(self.images)})


def register_model(
    tracked: TrackedRun, servable: Servable, *, name: str, step: int, description: str = ""
) -> ModelVersion:
    """Registers a new version with alias `candidate` and the run's lineage, and returns it.

    Metrics the run has recorded at `step` become the model's. The logged model is loaded and must
    repeat what the predictor answers directly, otherwise RuntimeError is raised and nothing is
    registered. Called again by a later attempt of the run, it returns the version there is.
    """
    predictor = pyfunc.import_predictor(servable.predictor).load(servable.model_dir)
    answer = predictor.predict(servable.images, servable.params)
    tracked.flush()
    client = connect(tracked.uri)
    with store_errors(tracked.uri):
        number = _version_of_run(client, name, tracked.run_id)
        if number is None:
            uri = _log_model(tracked, servable, answer=answer, step=step)
            _check_answer(uri, servable, expected=answer)
            number = str(mlflow.register_model(uri, name).version)
        client.update_model_version(name, number, description)
        for key, value in (tracked.lineage | {names.RUN_ID: tracked.run_id}).items():
            client.set_model_version_tag(name, number, key, value)
        client.set_registered_model_alias(name, names.CANDIDATE, number)
    return show_model(tracked.uri, f"{name}/{number}")


def _version_of_run(client: MlflowClient, name: str, run_id: str) -> str | None:
    found = client.search_model_versions(f"name = '{name}' AND run_id = '{run_id}'")
    return str(found[0].version) if found else None


def _log_model(tracked: TrackedRun, servable: Servable, *, answer: pd.DataFrame, step: int) -> str:
    mlflow.set_experiment(experiment_id=tracked.experiment_id)  # or it lands in "Default"
    params = dict(servable.params)
    with tempfile.TemporaryDirectory() as scratch:
        spec = Path(scratch, "predictor.json")
        spec.write_text(json.dumps({"class": servable.predictor}), encoding="utf-8")
        logged = Model.log(
            artifact_path=None,
            name=names.MODEL,
            flavor=mlflow.pyfunc,
            run_id=tracked.run_id,
            step=step,
            python_model=pyfunc.__file__,
            code_paths=[str(Path(florence.__file__).parent)],  # loads without an installation
            artifacts={pyfunc.WEIGHTS: str(servable.model_dir), pyfunc.PREDICTOR: str(spec)},
            signature=infer_signature(servable.example, answer, params),
            input_example=(servable.example, params),
            pip_requirements=[_pinned(package) for package in servable.requirements],
        )
    return str(logged.model_uri)


def _pinned(package: str) -> str:
    public, _, _ = version(package).partition("+")  # a local build's suffix is on no index
    return f"{package}=={public}"


def _check_answer(uri: str, servable: Servable, *, expected: pd.DataFrame) -> None:
    """Asks the logged model: that it cannot be loaded is only a warning to MLflow."""
    answer = mlflow.pyfunc.load_model(uri).predict(servable.example, dict(servable.params))
    try:
        pd.testing.assert_frame_equal(answer, expected, rtol=1e-4)
    except AssertionError as error:
        raise RuntimeError(f"the logged model {uri} does not answer as trained: {error}") from None


def list_models(uri: str) -> list[ModelSummary]:
    """Returns every registered model, by name; none when there is no local store yet."""
    if not store_exists(uri):
        return []
    client = connect(uri)
    with store_errors(uri):
        return [
            ModelSummary(
                name=model.name,
                latest_version=max((int(v.version) for v in model.latest_versions), default=0),
                aliases={alias: int(number) for alias, number in model.aliases.items()},
                updated=_utc(model.last_updated_timestamp),
                description=model.description or "",
            )
            for model in _registered_models(client)
        ]


def show_model(uri: str, reference: str) -> ModelVersion:
    """Returns the version `reference` means: NAME (the newest), NAME@ALIAS or NAME/VERSION.

    A leading `models:/` is accepted. Raises UserError saying what there is instead.
    """
    if not store_exists(uri):
        raise UserError(f"there is no registered model {reference!r}: {uri} does not exist")
    client = connect(uri)
    with store_errors(uri):
        found = _find_version(client, reference)
        metrics = _metrics(client, found)
    return ModelVersion(
        name=found.name,
        version=int(found.version),
        aliases=tuple(sorted(found.aliases)),
        created=_utc(found.creation_timestamp),
        run_id=found.run_id or "",
        description=found.description or "",
        tags=found.tags,
        metrics=metrics,
    )


def resolve_model(uri: str, reference: str, *, into: Path) -> ResolvedModel:
    """Downloads a version below `into` and returns it with the folder it was registered from."""
    found = show_model(uri, reference)
    folder = into / f"{found.name}-{found.version}"
    with store_errors(uri):
        folder.mkdir(parents=True, exist_ok=True)
        mlflow.artifacts.download_artifacts(found.uri, dst_path=str(folder))
    try:
        weights = Model.load(str(folder)).flavors["python_function"]["artifacts"][pyfunc.WEIGHTS]
    except KeyError:
        raise UserError(f"{found.uri} was not registered by florence: it has no weights") from None
    return ResolvedModel(version=found, path=folder / weights["path"])


def _find_version(client: MlflowClient, reference: str) -> model_registry.ModelVersion:
    parts = re.fullmatch(r"(?:models:/)?([^/@]+)(?:@([^/@]+)|/([0-9]+))?", reference)
    if parts is None:
        raise UserError(f"model {reference!r} is not NAME, NAME@ALIAS or NAME/VERSION")
    name, alias, number = parts.groups()
    models = {model.name: model for model in _registered_models(client)}
    if name not in models:
        raise UserError(f"there is no registered model {name!r}{nearest(name, models)}")
    aliases = models[name].aliases
    if alias and alias not in aliases:
        raise UserError(f"model {name} has no alias {alias!r}{nearest(alias, aliases)}")
    numbers = [str(found.version) for found in client.search_model_versions(f"name = '{name}'")]
    number = str(aliases[alias]) if alias else number or max(numbers, key=int)
    if number not in numbers:
        raise UserError(f"model {name} has no version {number}{nearest(number, numbers)}")
    return client.get_model_version(name, number)


def _metrics(client: MlflowClient, found: model_registry.ModelVersion) -> dict[str, float]:
    source = found.source or ""
    if not source.startswith("models:/"):
        return {}  # not registered by us
    logged = client.get_logged_model(source.removeprefix("models:/"))
    return {metric.key: metric.value for metric in logged.metrics or []}


def _registered_models(client: MlflowClient) -> list[model_registry.RegisteredModel]:
    models: list[model_registry.RegisteredModel] = []
    token = None
    while True:
        page = client.search_registered_models(order_by=["name ASC"], page_token=token)
        models += page
        token = page.token
        if not token:
            return models


def _utc(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)
