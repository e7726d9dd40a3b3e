"""Layers of a run, and what a user is told when a name or value is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from florence.config.resolve import client_settings, load_run, resolve
from florence.config.run import TrainRun
from florence.util.errors import UserError

JOB = """
kind: train
name: demo
model: {preset: pico, text: {width: 128}}
data: {train: data/x}
optim: {lr: 1.0e-3, warmup_steps: 10}
training: {total_steps: 100, global_batch_size: 16}
evaluation: [{dataset: digits, path: data/val}]
"""


@pytest.fixture
def job(tmp_path: Path) -> Path:
    path = tmp_path / "job.yaml"
    path.write_text(JOB)
    return path


def train_run(path: Path, *overrides: str) -> TrainRun:
    run = resolve(path, overrides)
    assert isinstance(run, TrainRun)
    return run


def test_layers_win_in_order(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert train_run(job).optim.eps == 1e-6  # class default
    assert train_run(job).optim.lr == 1e-3  # file
    monkeypatch.setenv("FLORENCE_OPTIM__LR", "2e-3")
    assert train_run(job).optim.lr == 2e-3  # environment
    assert train_run(job, "--optim.lr", "3e-3").optim.lr == 3e-3  # flag
    assert train_run(job, "--optim.lr=4e-3").optim.lr == 4e-3


def test_a_preset_fills_in_only_what_was_not_given(job: Path) -> None:
    run = train_run(job, "--model.image.image_size", "48")
    assert (run.model.image.image_size, run.model.image.window_size) == (48, 4)
    assert (run.model.text.width, run.model.text.context_length) == (128, 24)
    assert train_run(job, "--model.preset", "huge").model.image.embed_dim == 256


def test_lists_and_null_are_given_as_json(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLORENCE_PARALLEL__CHUNK_SIZE", "4")
    run = train_run(job, "--parallel.chunk_size", "null", "--optim.betas", "[0.8, 0.9]")
    assert run.parallel.chunk_size is None
    assert run.optim.betas == (0.8, 0.9)


@pytest.mark.parametrize(
    ("flag", "text", "value"),
    [
        ("parallel.zero_stage", "3", 3),
        ("parallel.precision", "fp32", "fp32"),
        ("parallel.activation_checkpointing", "true", True),
        ("model.image.depths", "[1, 2, 3]", (1, 2, 3)),
        ("data.tokenizer", "a.json", "a.json"),
        ("tracking.log_every", "7", 7),
    ],
)
def test_flag_and_variable_reach_fields_of_every_type(
    job: Path, monkeypatch: pytest.MonkeyPatch, flag: str, text: str, value: object
) -> None:
    by_flag = train_run(job, f"--{flag}", text)
    monkeypatch.setenv("FLORENCE_" + flag.upper().replace(".", "__"), text)
    for run in (by_flag, train_run(job)):
        found: object = run
        for name in flag.split("."):
            found = getattr(found, name)
        assert found == value


def test_run_yaml_round_trips_to_the_same_run_and_name(job: Path, tmp_path: Path) -> None:
    run = train_run(job)
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(run.model_dump(mode="json")))
    assert load_run(path) == run
    assert load_run(path).job_name == run.job_name


def test_the_worker_ignores_the_environment(
    job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(train_run(job).model_dump(mode="json")))
    monkeypatch.setenv("FLORENCE_OPTIM__LR", "9")
    assert load_run(path).optim.lr == 1e-3  # type: ignore[union-attr]


def test_the_fingerprint_changes_with_any_field(job: Path) -> None:
    assert train_run(job).job_name == train_run(job).job_name
    assert train_run(job).job_name != train_run(job, "--seed", "1").job_name


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["--optim.lrr", "1"], r"flag --optim\.lrr: unknown field optim\.lrr; did you mean 'lr'"),
        (["--optm.lr", "1"], r"unknown field optm; did you mean 'optim'"),
        (["--optim.warmup", "1"], r"unknown field optim\.warmup; did you mean 'warmup_steps'"),
        (["--optim.lr", "abc"], r"optim\.lr = 'abc': Input should be a valid number"),
        (["--parallel.zero_stage", "4"], r"parallel\.zero_stage = '4': .* less than or equal to 3"),
        (["--optim.lr", "nan"], r"optim\.lr"),
        (["--model.preset", "hug"], r"model\.preset = 'hug': Input should be 'pico', 'tiny'"),
        (["--training.global_batch_size", "7", "--cluster.nodes", "2"], r"= 7 does not divide"),
        (["--evaluation", '[{"dataset": "a"}]'], r"field evaluation\.0\.path is missing"),
        (["lr=1"], r"unexpected argument 'lr=1'"),
        (["--seed"], r"flag --seed needs a value"),
        (["--data.train", "s3://bucket/x"], r"data: cache_dir is required"),
    ],
)
def test_a_wrong_flag_names_field_value_and_remedy(
    job: Path, overrides: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        resolve(job, overrides)


@pytest.mark.parametrize("name", ["FLORENCE_OPTIM__LERNING_RATE", "FLORENCE_OPTM__LR"])
def test_a_misspelt_variable_is_refused(
    job: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "1")
    for read in (lambda: resolve(job), client_settings):
        with pytest.raises(UserError, match=f"environment variable {name}: unknown field"):
            read()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kind: trian", "kind is 'trian'; allowed: train, evaluate, curate"),
        ("- 1", "must hold a mapping"),
        ("kind: [", "is not valid YAML"),
        ("name: a\nname: b", "found the key 'name' twice"),
        (JOB + "modl: {}", "unknown field modl; did you mean 'model'"),
        (JOB.replace("lr:", "Lr:"), "unknown field optim.Lr; did you mean 'lr'"),
        (JOB.replace("name: demo", "name: De mo"), "name = 'De mo'"),
    ],
)
def test_a_wrong_file_names_file_field_and_remedy(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=r"bad\.yaml: ") as caught:
        resolve(path)
    assert message in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nothing\.yaml: cannot be read"):
        resolve(tmp_path / "nothing.yaml")


def test_client_settings_read_the_fields_of_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLORENCE_RUNS_DIR", "elsewhere")
    monkeypatch.setenv("FLORENCE_TRACKING__URI", "http://127.0.0.1:5000")
    monkeypatch.setenv("FLORENCE_OPTIM__LR", "1")  # a run's own field: not the client's concern
    settings = client_settings()
    assert settings.runs_dir == "elsewhere"
    assert settings.tracking.uri == "http://127.0.0.1:5000"
