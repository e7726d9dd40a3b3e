"""Extracts the image features of a dataset once, spread over all ranks."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from florence.data.loader import build_eval_loader
from florence.data.streams import EvalDataset
from florence.distributed.collectives import all_gather_rows
from florence.distributed.setup import RankInfo
from florence.tasks.base import TwoTower


class ImageFeatures(NamedTuple):
    """Features of a whole dataset in its own order, equal on every rank."""

    features: Tensor
    """(N, D) unit vectors."""
    class_ids: Tensor
    """(N,) indices into the dataset's class names."""


@torch.inference_mode()
def extract_image_features(
    towers: TwoTower, dataset: EvalDataset, *, batch_size: int, ranks: RankInfo
) -> ImageFeatures:
    """Embeds every sample exactly once: rank r takes samples r, r + world_size, ..."""
    loader = build_eval_loader(
        dataset, batch_size=batch_size, rank=ranks.rank, world_size=ranks.world_size
    )
    features, class_ids = [], []
    for batch in loader:
        features.append(towers.encode_image(batch["image"].to(ranks.device)).float())
        class_ids.append(batch["class_id"].to(ranks.device))
    order = torch.cat(
        [torch.arange(rank, len(dataset), ranks.world_size) for rank in range(ranks.world_size)]
    ).to(ranks.device)
    in_order = torch.argsort(order)
    return ImageFeatures(
        features=all_gather_rows(torch.cat(features))[in_order],
        class_ids=all_gather_rows(torch.cat(class_ids))[in_order],
    )
