"""The file every registered model carries as its code: MLflow's pyfunc around a predictor.

It knows no task: `predictor.json` among the model's artifacts names the class that reads the folder
of weights and answers for images.
"""

from __future__ import annotations

import base64
import importlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, Self, cast

import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from florence.util.errors import UserError

IMAGE = "image"
"""Column of the input: encoded image files as bytes, or as base64 text where JSON needs it."""
WEIGHTS = "model"
PREDICTOR = "predictor"
"""Names of the model's two artifacts."""


class Predictor(Protocol):
    """What answers for a model; it is found by name, so nothing here imports it."""

    @classmethod
    def load(cls, model_dir: Path) -> Self:
        """Reads the folder that was registered (weights, configuration, tokenizer)."""

    def predict(self, images: Sequence[bytes], params: Mapping[str, Any]) -> pd.DataFrame:
        """Returns one row per encoded image; raises UserError naming the row it cannot read."""


def import_predictor(spec: str) -> type[Predictor]:
    """Returns the class named "package.module:Class"; raises UserError when there is none."""
    module, _, name = spec.partition(":")
    try:
        return cast(type[Predictor], getattr(importlib.import_module(module), name))
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"predictor {spec!r} is not an importable module:Class: {error}") from error


def decode_image(value: object, *, row: int) -> bytes:
    """Returns the bytes of a cell of the `image` column; raises UserError naming the row.

    Base64 is tried on bytes too: from some request formats MLflow hands its text over as bytes,
    and no encoded image consists of base64's characters alone.
    """
    if not isinstance(value, str | bytes):
        raise UserError(f"row {row}: {IMAGE} is {type(value).__name__}, not bytes or base64 text")
    if not value:
        raise UserError(f"row {row}: {IMAGE} is empty")
    try:
        return base64.b64decode(value, validate=True)
    except ValueError:
        if isinstance(value, bytes):
            return value
        raise UserError(f"row {row}: {IMAGE} is text that is not base64") from None


class FlorenceModel(PythonModel):
    """Loads the predictor once and hands it the rows of a table."""

    def load_context(self, context: PythonModelContext) -> None:
        """Reads the weights; MLflow passes `context` by that name."""
        spec = json.loads(Path(context.artifacts[PREDICTOR]).read_text(encoding="utf-8"))
        self._predictor = import_predictor(spec["class"]).load(Path(context.artifacts[WEIGHTS]))

    def predict(
        self,
        context: PythonModelContext,
        model_input: pd.DataFrame,
        params: dict[str, Any] | None = None,
    ) -> pd.DataFrame:
        """Returns one row per image; raises UserError naming a row that is not an image."""
        images = [decode_image(value, row=row) for row, value in enumerate(model_input[IMAGE])]
        return self._predictor.predict(images, params or {})


set_model(FlorenceModel())
