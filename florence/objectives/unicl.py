r"""UniCL, the unified image-text contrastive loss (paper section 2.2, equations 1-3), without a
B x B tensor and over any number of ranks.

With logits z_ij = s u_i . v_j for images u, texts v and logit scale s, n_i the number of samples of
the global batch B that share the label y_i, and targets t_ij = 1[y_i = y_j] / n_i:

    L_i2t = - sum_i sum_k t_ik (z_ik - a_i),    a_i = log sum_j exp z_ij    (row of image i)
    L_t2i = - sum_j sum_k t_kj (z_kj - c_j),    c_j = log sum_i exp z_ij    (column of text j)

Targets are symmetric and every row and column of them sums to one, so both directions have the
same positive term, and it needs only m_i, the mean of the texts that carry the label y_i:

    L_i2t + L_t2i = sum_i (a_i + c_i - 2 s u_i . m_i)
    d(L_i2t + L_t2i) / dz_ij = exp(z_ij - a_i) + exp(z_ij - c_j) - 2 t_ij

Texts come in tiles of columns. A tile of logits gives a part of every a_i (a running log-sum-exp)
and its own c_j; the backward pass computes the tile again instead of keeping it.

Over ranks, each owns the b rows of its images against all texts: texts and labels are gathered,
c is combined by a log-sum-exp over ranks, and the gradients of the texts are summed back to their
owners. Images never travel.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from florence.distributed.collectives import (
    all_gather_equal_rows,
    all_reduce_logsumexp,
    rank,
    reduce_scatter_rows,
)

DEFAULT_TILE = 1024


def unicl_loss(
    image_features: Tensor,
    text_features: Tensor,
    labels: Tensor,
    logit_scale: Tensor,
    *,
    group: dist.ProcessGroup | None = None,
    tile: int = DEFAULT_TILE,
) -> Tensor:
    """Returns this rank's share of (L_i2t + L_t2i) / (2 |B|), equation 1 as a mean, as a scalar.

    The factor 1 / (2 |B|) on the printed sum makes the loss a mean over samples and directions,
    comparable between batch sizes. The mean of the returned values over ranks is the loss of the
    global batch, and gradients averaged over ranks, as DeepSpeed does, are its exact gradients.

    `image_features` and `text_features` (b, D), L2-normalised, with the same b on every rank of
    `group`; `labels` (b,) int64, equal where the raw descriptions are equal; `logit_scale` one
    element, the factor itself and not its logarithm. Sums are float32 (float64 for float64
    features), under autocast too. Memory is O(b x tile + |B| x D).
    """
    with torch.autocast(image_features.device.type, enabled=False):
        loss: Tensor = _UniCL.apply(image_features, text_features, labels, logit_scale, group, tile)
    return loss


class _UniCL(torch.autograd.Function):
    """The module docstring's formulae, with the collectives inside so that each is called once."""

    @staticmethod
    def forward(
        ctx: Any,
        image_features: Tensor,
        text_features: Tensor,
        labels: Tensor,
        logit_scale: Tensor,
        group: dist.ProcessGroup | None,
        tile: int,
    ) -> Tensor:
        dtype = torch.promote_types(image_features.dtype, torch.float32)
        images, scale = image_features.to(dtype), logit_scale.to(dtype)
        texts = all_gather_equal_rows(text_features, group=group).to(dtype)
        _, all_ids, counts = torch.unique(
            all_gather_equal_rows(labels, group=group), return_inverse=True, return_counts=True
        )
        own = slice(rank(group) * len(images), (rank(group) + 1) * len(images))
        ids = all_ids[own]

        row_lse = images.new_full((len(images),), -torch.inf)
        column_lse = images.new_empty(len(texts))
        for columns, logits in _tiles(images * scale, texts, tile):
            row_lse = torch.logaddexp(row_lse, logits.logsumexp(1))
            column_lse[columns] = logits.logsumexp(0)
        column_lse = all_reduce_logsumexp(column_lse, group=group)

        positives = _shares_by_label(texts, all_ids, counts)[ids]
        ctx.save_for_backward(
            images, texts, positives, scale, row_lse, column_lse, ids, all_ids, counts
        )
        ctx.group, ctx.tile = group, tile
        positive_logits = (images * positives).sum(1) * scale
        return ((row_lse + column_lse[own]) / 2 - positive_logits).mean()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        images, texts, positives, scale, row_lse, column_lse, ids, all_ids, counts = (
            ctx.saved_tensors
        )
        # With g = d(L_i2t + L_t2i) / dz: sum_j g_ij v_j, and sum_i g_ij u_i over own images.
        to_images = positives * -2
        to_texts = _shares_by_label(images, ids, counts)[all_ids] * -2
        for columns, logits in _tiles(images * scale, texts, ctx.tile):
            softmax = (logits - row_lse[:, None]).exp_()
            softmax += logits.sub_(column_lse[columns]).exp_()
            to_images.addmm_(softmax, texts[columns])
            to_texts[columns].addmm_(softmax.T, images)
        # 1 / (2 |B|) times the number of ranks, which averaging the gradients divides by.
        factor = grad / (2 * len(images))
        image_grad = to_images * (scale * factor)
        text_grad = reduce_scatter_rows(to_texts, group=ctx.group) * (scale * factor)
        scale_grad = (images * to_images).sum().reshape(scale.shape) * factor
        return image_grad, text_grad, None, scale_grad, None, None  # autograd restores dtypes


def _tiles(rows: Tensor, texts: Tensor, tile: int) -> Iterator[tuple[slice, Tensor]]:
    """Yields slices of text columns with their logits (b, <= tile)."""
    for start in range(0, len(texts), tile):
        columns = slice(start, start + tile)
        yield columns, rows @ texts[columns].T


def _shares_by_label(features: Tensor, ids: Tensor, counts: Tensor) -> Tensor:
    """Returns (labels, D): the sum of the `features` (N, D) with each label over its count."""
    sums = features.new_zeros(len(counts), features.shape[1])
    return sums.index_add_(0, ids, features) / counts[:, None]
