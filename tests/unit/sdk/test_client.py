"""Where the client looks for jobs, and what it refuses before anything is started."""

from __future__ import annotations

from pathlib import Path

import pytest

from florence.config.run import CurateRun
from florence.sdk import FlorenceClient
from florence.util.errors import UserError


@pytest.fixture
def run() -> CurateRun:
    return CurateRun(name="digits", output="data/digits", runs_dir="elsewhere")


def test_a_job_that_list_would_not_find_is_refused(
    run: CurateRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FLORENCE_RUNS_DIR", raising=False)
    match = "runs_dir = 'elsewhere' in the job, but 'runs' here.*set FLORENCE_RUNS_DIR=elsewhere"
    with pytest.raises(UserError, match=match):
        FlorenceClient().submit(run)
    assert not list(tmp_path.iterdir())


def test_verbs_of_a_cluster_say_so_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="only on the kubernetes backend"):
        FlorenceClient().jobs(selector="team=vision")


def test_a_cluster_gets_a_run_that_tracks_to_its_server(run: CurateRun) -> None:
    (config_map,) = FlorenceClient(backend="kubernetes").render(run).config_maps
    assert "uri: http://mlflow" in config_map["data"]["run.yaml"]
    (config_map,) = FlorenceClient().render(run).config_maps
    assert "uri: sqlite:///" in config_map["data"]["run.yaml"]
