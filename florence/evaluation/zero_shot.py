"""Zero-shot classification: class names as text, cosine as score (paper section 3.1)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from florence.config.evaluation import ZeroShotConfig
from florence.data.prompts import CLASS_TEMPLATES
from florence.data.streams import open_eval_dataset
from florence.distributed.setup import RankInfo
from florence.evaluation.base import EvaluationResult
from florence.evaluation.features import extract_image_features
from florence.evaluation.pictures import confusion_figure, retrieval_figure
from florence.tasks.base import Task, TwoTower, embed_classes
from florence.util.errors import UserError


class ZeroShotEvaluator:
    """Top-1 and top-5 accuracy of a two-tower task with an ensemble of prompts."""

    def __init__(self, cfg: ZeroShotConfig) -> None:
        self.cfg = cfg

    @torch.inference_mode()
    def evaluate(self, task: Task[Any], *, ranks: RankInfo) -> EvaluationResult:
        """Classifies every image of the dataset; the figures are equal on any number of ranks."""
        if not isinstance(task, TwoTower):
            raise UserError(f"evaluation zero_shot needs two towers, {type(task).__name__} has not")
        task.eval()
        dataset = open_eval_dataset(self.cfg.path, image_size=task.image_size)
        images = extract_image_features(task, dataset, batch_size=self.cfg.batch_size, ranks=ranks)
        templates = self.cfg.templates or CLASS_TEMPLATES
        classes = embed_classes(task, dataset.class_names, templates).float()
        similarity = images.features @ classes.T

        figures = {}
        if ranks.is_main:
            predicted = similarity.argmax(dim=1)
            figures["confusion"] = confusion_figure(
                images.class_ids, predicted, names=dataset.class_names
            )
            figures["retrieval"] = retrieval_figure(dataset, similarity, images.class_ids)
        return EvaluationResult(
            name=f"{self.cfg.dataset}_{self.cfg.name}",
            metrics=topk_accuracy(similarity, images.class_ids),
            figures=figures,
        )


def topk_accuracy(similarity: Tensor, class_ids: Tensor) -> dict[str, float]:
    """Returns `top1` and `top5` in [0, 1] of (N, C) scores against (N,) class indices."""
    best = similarity.topk(min(5, similarity.shape[1]), dim=1).indices
    hits = best == class_ids[:, None]
    return {
        "top1": hits[:, 0].double().mean().item(),
        "top5": hits.any(dim=1).double().mean().item(),
    }
