"""Weights on disk: exact round trips, other resolutions, and clear refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from florence.config.model import ModelConfig
from florence.models.build import build_model
from florence.models.florence import FlorenceModel
from florence.models.weights import (
    CONFIG_NAME,
    WEIGHTS_NAME,
    load_model,
    load_weights,
    resize_position_tables,
    save_model,
)
from florence.util.errors import UserError

TABLE = "image_encoder.stages.0.blocks.0.attention.relative_position_bias_table"


def _config(*, image_size: int = 224, window_size: int = 7, context_length: int = 6) -> ModelConfig:
    image = {"embed_dim": 4, "depths": (2, 1), "num_heads": (1, 2)}
    text = {"vocab_size": 20, "width": 8, "num_heads": 2, "num_layers": 1}
    return ModelConfig.model_validate(
        {
            "embed_dim": 4,
            "image": {**image, "image_size": image_size, "window_size": window_size},
            "text": {**text, "context_length": context_length},
        }
    )


def _model(**sizes: Any) -> FlorenceModel:
    return build_model(_config(**sizes)).eval()


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    model = _model()
    save_model(model.state_dict(), model.config, tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_round_trip_is_bit_exact(tmp_path: Path, dtype: torch.dtype) -> None:
    model = _model().to(dtype)
    save_model(model.state_dict(), model.config, tmp_path)
    loaded = load_model(tmp_path).eval()
    assert loaded.config == model.config
    assert sorted(path.name for path in tmp_path.iterdir()) == [CONFIG_NAME, WEIGHTS_NAME]
    for name, tensor in model.state_dict().items():
        assert loaded.state_dict()[name].dtype == dtype
        assert torch.equal(loaded.state_dict()[name], tensor), name
    image = torch.randn(1, 3, 32, 32)
    assert torch.equal(loaded.encode_image(image), model.encode_image(image))


def test_a_loaded_model_can_train(saved: Path) -> None:
    model = load_model(saved)
    model.encode_image(torch.randn(2, 3, 32, 32))[0, 0].backward()
    assert model.image_projection.weight.grad is not None


def test_another_resolution_resizes_the_bias_tables(saved: Path) -> None:
    model = _model(image_size=384, window_size=12)
    load_weights(model, saved)
    tensors = load_file(saved / WEIGHTS_NAME)
    assert tensors[TABLE].shape == (13**2, 1)
    assert model.state_dict()[TABLE].shape == (23**2, 1)
    assert torch.equal(model.image_projection.weight, tensors["image_projection.weight"])
    assert model.encode_image(torch.randn(1, 3, 384, 384)).isfinite().all()


def test_resized_tables_keep_a_smooth_bias() -> None:
    """A bias that falls off with the distance, in windows, still does so in larger windows."""

    def bowl(span: int) -> torch.Tensor:
        axis = torch.linspace(-1, 1, span)
        return -(axis[:, None] ** 2 + axis**2).reshape(-1, 1)

    state = _model().state_dict()
    state[TABLE] = bowl(13)
    resized = resize_position_tables(state, _model(window_size=12))[TABLE]
    torch.testing.assert_close(resized, bowl(23), atol=0.2, rtol=0)
    assert resized.argmax() == 23**2 // 2


def test_equal_sizes_are_untouched(saved: Path) -> None:
    tensors = load_file(saved / WEIGHTS_NAME)
    resized = resize_position_tables(tensors, _model())
    assert all(resized[name] is tensor for name, tensor in tensors.items())
    model = _model()
    load_weights(model, saved)
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in tensors.items())


def test_text_positions_are_cut_but_never_invented(saved: Path) -> None:
    shorter = _model(context_length=4)
    load_weights(shorter, saved)
    name = "text_encoder.position_embedding.weight"
    assert torch.equal(shorter.state_dict()[name], load_file(saved / WEIGHTS_NAME)[name][:4])
    with pytest.raises(UserError, match=r"text.context_length = 9 is longer than the 6 positions"):
        load_weights(_model(context_length=9), saved)


@pytest.mark.parametrize("name", [WEIGHTS_NAME, CONFIG_NAME])
def test_missing_and_damaged_files_are_named(saved: Path, name: str) -> None:
    path = saved / name
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(UserError, match=name):
        load_model(saved)
    path.unlink()
    with pytest.raises(UserError, match=f"{name} does not exist"):
        load_model(saved)


@pytest.mark.parametrize(
    ("name", "shape", "problem"),
    [
        ("image_projection.weight", None, "is missing"),
        ("extra", (1,), "is unknown"),
        ("text_projection.weight", (4, 9), "has shape (4, 9) instead of (4, 8)"),
        (TABLE, (170, 1), "has shape (170, 1) instead of (169, 1)"),
        (TABLE, (169, 2), "has shape (169, 2) instead of (169, 1)"),
    ],
)
def test_weights_that_do_not_fit_are_named(
    saved: Path, name: str, shape: tuple[int, ...] | None, problem: str
) -> None:
    tensors = load_file(saved / WEIGHTS_NAME)
    if shape is None:
        del tensors[name]
    else:
        tensors[name] = torch.zeros(shape)
    save_file(tensors, saved / WEIGHTS_NAME)
    message = f"{saved / WEIGHTS_NAME} does not fit the model: {name} {problem}"
    for load in (load_model, lambda folder: load_weights(_model(), folder)):
        with pytest.raises(UserError) as caught:
            load(saved)
        assert str(caught.value) == message
