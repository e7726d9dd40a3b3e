"""Small real predictors: they tell dark images from light ones."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
from PIL import Image, UnidentifiedImageError

from florence.util.errors import UserError


class Brightness:
    """Scores the classes, ordered from dark to light, by an image's mean brightness."""

    def __init__(self, gain: float) -> None:
        self.gain = gain

    @classmethod
    def load(cls, model_dir: Path) -> Self:
        return cls(float((model_dir / "gain.txt").read_text()))

    def predict(self, images: Sequence[bytes], params: Mapping[str, Any]) -> pd.DataFrame:
        classes = params["classes"]
        rows = []
        for row, image in enumerate(images):
            try:
                pixels = np.asarray(Image.open(io.BytesIO(image)).convert("L"), dtype=float)
            except UnidentifiedImageError:
                raise UserError(f"row {row}: not an image") from None
            brightness = pixels.mean() / 255 * self.gain
            scores = [1 - abs(brightness - i / (len(classes) - 1)) for i in range(len(classes))]
            best = int(np.argmax(scores))
            rows.append({"label": classes[best], "score": scores[best], "scores": scores})
        return pd.DataFrame(rows)


class Fickle(Brightness):
    """Answers differently every time it is loaded."""

    loads = 0

    @classmethod
    def load(cls, model_dir: Path) -> Self:
        del model_dir
        cls.loads += 1
        return cls(1 + cls.loads / 10)
