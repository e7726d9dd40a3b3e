"""Saves and loads a model's weights: a folder of `model.safetensors` and `config.json`."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from florence.config.model import ModelConfig
from florence.models.build import build_model
from florence.models.florence import FlorenceModel
from florence.util.errors import UserError

WEIGHTS_NAME = "model.safetensors"
CONFIG_NAME = "config.json"
_BIAS_TABLE = "relative_position_bias_table"
_TEXT_POSITIONS = "text_encoder.position_embedding.weight"


def save_model(state_dict: Mapping[str, Tensor], cfg: ModelConfig, folder: Path) -> None:
    """Writes weights and configuration into `folder`; each file is replaced in one piece."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state_dict.items()}
    partial = folder / f".{WEIGHTS_NAME}.partial"
    save_file(tensors, partial)
    os.replace(partial, folder / WEIGHTS_NAME)
    partial = folder / f".{CONFIG_NAME}.partial"
    partial.write_text(cfg.model_dump_json(indent=2) + "\n")
    os.replace(partial, folder / CONFIG_NAME)


def load_model(folder: Path) -> FlorenceModel:
    """Returns the model saved in `folder`, on the CPU in the precision it was saved in.

    Raises UserError when a file is missing, damaged or does not fit its configuration.
    """
    # Built on the meta device: no weight is initialised only to be replaced.
    with torch.device("meta"):
        model = build_model(_read_config(folder / CONFIG_NAME))
    state = _read_weights(folder / WEIGHTS_NAME)
    _check_fit(state, model, folder / WEIGHTS_NAME)
    model.load_state_dict(state, assign=True)
    return model


def load_weights(model: FlorenceModel, folder: Path) -> None:
    """Loads the weights saved in `folder` into a model that may have another resolution.

    Windows and context length may differ, see `resize_position_tables`; all else must be equal.
    Raises UserError otherwise, or when the file is missing or damaged.
    """
    path = folder / WEIGHTS_NAME
    state = resize_position_tables(_read_weights(path), model)
    _check_fit(state, model, path)
    model.load_state_dict(state)


def resize_position_tables(
    state_dict: Mapping[str, Tensor], model: FlorenceModel
) -> dict[str, Tensor]:
    """Returns the weights with position tables of the model's sizes; equal sizes are untouched.

    Relative position bias tables are resized bicubically, as Swin does for 224 -> 384 pixels with
    window 7 -> 12. Text positions are cut; raises UserError if there are too few.
    """
    resized = dict(state_dict)
    for name, wanted in model.state_dict().items():
        table = resized.get(name)
        if table is None or table.shape == wanted.shape or table.shape[1:] != wanted.shape[1:]:
            continue
        if name.endswith(_BIAS_TABLE):
            resized[name] = _resize_bias_table(table, rows=wanted.shape[0])
        elif name == _TEXT_POSITIONS:
            resized[name] = _cut_positions(table, length=wanted.shape[0])
    return resized


def _resize_bias_table(table: Tensor, *, rows: int) -> Tensor:
    """Resizes (offsets^2, heads) to (rows, heads), both being squares of offsets."""
    old, new = math.isqrt(table.shape[0]), math.isqrt(rows)
    if old**2 != table.shape[0]:
        return table  # not a table of offsets: left to be refused for its shape
    grid = table.float().T.unflatten(1, (old, old)).unsqueeze(0)
    grid = F.interpolate(grid, size=(new, new), mode="bicubic", align_corners=False)
    return grid[0].flatten(1).T.to(table.dtype)


def _cut_positions(table: Tensor, *, length: int) -> Tensor:
    if table.shape[0] < length:
        raise UserError(
            f"text.context_length = {length} is longer than the {table.shape[0]} positions of the "
            f"saved weights ({_TEXT_POSITIONS}); allowed: at most {table.shape[0]}"
        )
    return table[:length]


def _read_config(path: Path) -> ModelConfig:
    try:
        return ModelConfig.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; a saved model has {CONFIG_NAME}") from None
    except ValidationError as error:
        raise UserError(f"{path} is not a model configuration: {error}") from error


def _read_weights(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; a saved model has {WEIGHTS_NAME}") from None
    except SafetensorError as error:
        raise UserError(f"{path} is damaged or no safetensors file: {error}") from error


def _check_fit(state: Mapping[str, Tensor], model: FlorenceModel, path: Path) -> None:
    """Raises UserError naming the file and the first weights that do not fit the model."""
    wanted = model.state_dict()
    problems = [f"{name} is missing" for name in wanted if name not in state]
    problems += [f"{name} is unknown" for name in state if name not in wanted]
    problems += [
        f"{name} has shape {tuple(state[name].shape)} instead of {tuple(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in state and state[name].shape != tensor.shape
    ]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise UserError(f"{path} does not fit the model: {'; '.join(problems[:3])}{more}")
