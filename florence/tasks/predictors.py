"""What a registered model does when it is called through MLflow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from florence.data.prompts import CLASS_TEMPLATES
from florence.data.transforms import eval_transform
from florence.tasks.base import embed_classes
from florence.tasks.build import load_task
from florence.tasks.unicl import UniCLTask
from florence.util.errors import UserError


class ZeroShotPredictor:
    """Scores images against class names given at call time."""

    def __init__(self, task: UniCLTask) -> None:
        self.task = task.eval()
        self.transform = eval_transform(task.image_size)

    @classmethod
    def load(cls, model_dir: Path) -> ZeroShotPredictor:
        """Loads the folder `UniCLTask.save` wrote."""
        return cls(load_task(model_dir))

    @torch.inference_mode()
    def predict(self, images: Sequence[bytes], params: Mapping[str, Any]) -> pd.DataFrame:
        """Returns one row per image for the candidate names in `params["classes"]`.

        `label` is the likeliest name, `score` its probability, `scores` those of all names in
        their order.
        """
        classes = list(params.get("classes") or ())
        if not classes:
            raise UserError("params['classes'] is empty; give the names of the candidate classes")
        text_features = embed_classes(self.task, classes, CLASS_TEMPLATES)
        pixels = torch.stack(
            [self.transform(image, name=f"row {row}") for row, image in enumerate(images)]
        )
        cosine = self.task.encode_image(pixels) @ text_features.T
        scores = (self.task.model.logit_scale() * cosine).softmax(dim=1).tolist()
        best = [max(range(len(row)), key=row.__getitem__) for row in scores]
        return pd.DataFrame(
            {
                "label": [classes[index] for index in best],
                "score": [row[index] for row, index in zip(scores, best, strict=True)],
                "scores": scores,
            }
        )
