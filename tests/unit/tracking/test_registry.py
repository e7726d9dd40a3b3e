"""A registered model is found by name, carries its lineage and answers in a fresh process."""

from __future__ import annotations

import base64
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import mlflow
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException
from mlflow.models import validate_serving_input
from PIL import Image

from florence.tracking import names
from florence.tracking.registry import (
    ModelVersion,
    Servable,
    list_models,
    register_model,
    resolve_model,
    show_model,
)
from florence.tracking.run import open_run
from florence.util.errors import UserError


def png(brightness: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (4, 4), (brightness,) * 3).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("job") / "final model"
    folder.mkdir()
    (folder / "gain.txt").write_text("1.0")
    return folder


def servable(model_dir: Path, predictor: str = "brightness:Brightness") -> Servable:
    return Servable(
        model_dir=model_dir,
        predictor=predictor,
        images=[png(0), png(250)],
        params={"classes": ["dark", "light"]},
        requirements=["numpy", "pillow"],
    )


@pytest.fixture
def registered(make_run, model_dir) -> ModelVersion:
    """A model registered by a finished run."""
    name = make_run().name
    with open_run(make_run(), run_yaml="", data_fingerprints={"train": "f00d"}) as tracked:
        tracked.log_metrics({"eval/top1": 0.25}, step=1)
        tracked.log_metrics({"eval/top1": 0.75}, step=2)
        return register_model(tracked, servable(model_dir), name=name, step=2, description="tiny")


def test_a_version_links_to_run_job_data_and_metrics(registered, client, make_run) -> None:
    assert (registered.version, registered.aliases) == (1, ("candidate",))
    assert registered.description == "tiny"
    assert registered.metrics == {"eval/top1": 0.75}
    assert registered.tags[names.JOB] == make_run().job_name
    assert registered.tags[f"{names.DATA_FINGERPRINT}.train"] == "f00d"
    assert registered.tags[names.RUN_ID] == registered.run_id
    run = client.get_run(registered.run_id)
    assert run.data.tags[names.JOB] == make_run().job_name
    assert "classes" not in run.data.params
    history = client.get_metric_history(registered.run_id, "eval/top1")
    assert [metric.step for metric in history] == [1, 2]  # linking them did not repeat them
    (logged,) = run.outputs.model_outputs
    assert client.get_logged_model(logged.model_id).experiment_id == run.info.experiment_id


def test_the_next_run_registers_the_next_version_and_moves_the_alias(
    registered, client, make_run, model_dir
) -> None:
    name = registered.name
    with open_run(make_run(), run_yaml="", data_fingerprints={}) as tracked:
        second = register_model(tracked, servable(model_dir), name=name, step=1)
        again = register_model(tracked, servable(model_dir), name=name, step=1)
    assert (second.version, second.aliases) == (2, ("candidate",))
    assert again == second  # an attempt that was ended just after registering
    assert show_model(client.tracking_uri, f"{name}/1").aliases == ()
    assert show_model(client.tracking_uri, name).version == 2
    (summary,) = [m for m in list_models(client.tracking_uri) if m.name == name]
    assert (summary.latest_version, summary.aliases) == (2, {"candidate": 2})


LOAD = """
import json, sys, mlflow, pandas as pd
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model(sys.argv[2])
images = [open(path, "rb").read() for path in sys.argv[3:]]
table = pd.DataFrame({"image": images})
answer = model.predict(table, params={"classes": ["night", "dusk", "day"]})
print(json.dumps([answer.to_dict("records"), "torch" in sys.modules]))
"""


def test_it_answers_for_image_bytes_and_free_classes_in_a_fresh_process(
    registered, client, predictors, tmp_path
) -> None:
    for brightness in (10, 130, 240):
        (tmp_path / f"{brightness}.png").write_bytes(png(brightness))
    images = [str(tmp_path / f"{brightness}.png") for brightness in (10, 130, 240)]
    done = subprocess.run(
        [
            *(sys.executable, "-c", LOAD),
            *(client.tracking_uri, f"models:/{registered.name}@candidate", *images),
        ],
        env=os.environ | {"PYTHONPATH": str(predictors)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answer, imported_torch = json.loads(done.stdout.splitlines()[-1])
    assert [row["label"] for row in answer] == ["night", "dusk", "day"]
    assert [len(row["scores"]) for row in answer] == [3, 3, 3]
    assert not imported_torch  # only the predictor may need it


@pytest.fixture
def model(registered: ModelVersion) -> mlflow.pyfunc.PyFuncModel:
    return mlflow.pyfunc.load_model(registered.uri)


def test_its_signature_holds(model) -> None:
    assert model.metadata.signature.inputs.to_dict() == [
        {"name": "image", "type": "binary", "required": True}
    ]
    assert [c.name for c in model.metadata.signature.outputs] == ["label", "score", "scores"]
    assert list(model.predict({"image": [png(250)]})["label"]) == ["light"]  # the default classes
    with pytest.raises(MlflowException, match="missing inputs"):
        model.predict(pd.DataFrame({"picture": [png(0)]}))
    with pytest.raises(MlflowException, match="classes"):
        model.predict(pd.DataFrame({"image": [png(0)]}), params={"classes": "dark"})


def test_it_carries_its_code_requirements_and_example(model, registered) -> None:
    folder = Path(mlflow.artifacts.download_artifacts(registered.uri))
    assert (folder / "code/florence/tracking/pyfunc.py").exists()
    requirements = (folder / "requirements.txt").read_text().split()
    assert [line.split("==")[0] for line in requirements] == ["mlflow", "numpy", "pillow"]
    assert list(model.predict(model.input_example)["label"]) == ["dark", "light"]


def test_it_takes_base64_text_in_tables_and_in_every_request_format(model, registered) -> None:
    encoded = base64.b64encode(png(250)).decode()
    assert list(model.predict(pd.DataFrame({"image": [encoded]}))["label"]) == ["light"]
    for payload in (
        {"inputs": {"image": [encoded]}},
        {"instances": [{"image": encoded}]},
        {"dataframe_records": [{"image": encoded}]},
        {"dataframe_split": {"columns": ["image"], "data": [[encoded]]}},
    ):
        request = json.dumps(payload | {"params": {"classes": ["a", "b"]}})
        assert list(validate_serving_input(registered.uri, request)["label"]) == ["b"]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (b"no image", "row 1: not an image"),
        (b"", "row 1: image is empty"),
        (None, "row 1: image is NoneType, not bytes or base64 text"),
        ("*not base64*", "row 1: image is text that is not base64"),
    ],
)
def test_a_row_it_cannot_read_is_named(model, bad: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        model.predict(pd.DataFrame({"image": [png(0), bad]}))


def test_a_model_that_answers_differently_once_logged_is_not_registered(
    client, make_run, model_dir
) -> None:
    tracked = open_run(make_run(), run_yaml="", data_fingerprints={})
    with pytest.raises(RuntimeError, match="does not answer as trained"):
        register_model(tracked, servable(model_dir, "brightness:Fickle"), name="fickle", step=1)
    with pytest.raises(UserError, match="brightness:Dim"):
        register_model(tracked, servable(model_dir, "brightness:Dim"), name="fickle", step=1)
    tracked.finish("FAILED")
    assert "fickle" not in [model.name for model in list_models(client.tracking_uri)]


def test_resolve_gives_the_registered_folder(registered, client, tmp_path) -> None:
    reference = f"models:/{registered.name}@candidate"
    for _ in range(2):  # a restarted job asks again
        version, path = resolve_model(client.tracking_uri, reference, into=tmp_path / "a b")
        assert version == registered
        assert path.is_relative_to(tmp_path / "a b")
        assert [file.name for file in path.iterdir()] == ["gain.txt"]


def test_a_wrong_name_alias_or_version_is_answered_with_the_nearest(registered, client) -> None:
    uri, name = client.tracking_uri, registered.name
    for reference, message in {
        f"{name}x": f"no registered model '{name}x'; did you mean '{name}'",
        f"{name}@candidat": "no alias 'candidat'; did you mean 'candidate'",
        f"{name}/7": "no version 7; did you mean '1'",
        f"{name}/one": "NAME, NAME@ALIAS or NAME/VERSION",
    }.items():
        with pytest.raises(UserError, match=message):
            show_model(uri, reference)


def test_looking_into_a_store_that_is_not_there_does_not_create_it(tmp_path) -> None:
    uri = f"sqlite:///{tmp_path}/mlruns/mlflow.db"
    assert list_models(uri) == []
    with pytest.raises(UserError, match="does not exist"):
        show_model(uri, "florence")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UserError, match=r"tracking\.uri: 'file:///x'"):
        list_models("file:///x")
