"""One real store for all tests here: making its tables takes seconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient

from florence.config.run import CurateRun
from florence.tracking.store import connect

MakeRun = Callable[..., CurateRun]


@pytest.fixture(scope="session")
def client(tmp_path_factory: pytest.TempPathFactory) -> MlflowClient:
    """A client of a fresh local store in a folder with a space in its name."""
    folder = tmp_path_factory.mktemp("a store") / "mlruns"
    return connect(f"sqlite:///{folder}/mlflow.db")


@pytest.fixture
def make_run(client: MlflowClient, request: pytest.FixtureRequest) -> MakeRun:
    """Makes runs of one job per test."""

    def make(**tracking: object) -> CurateRun:
        name = request.node.name.partition("[")[0].replace("_", "-")[-36:].strip("-")
        settings = {"uri": client.tracking_uri, "system_metrics": False, **tracking}
        return CurateRun(name=name, output="data/digits", tracking=settings)

    return make


@pytest.fixture(autouse=True)
def predictors(monkeypatch: pytest.MonkeyPatch) -> Path:
    """Makes the predictors of the tests importable by name."""
    folder = Path(__file__).parent / "predictors"
    monkeypatch.syspath_prepend(folder)
    return folder
