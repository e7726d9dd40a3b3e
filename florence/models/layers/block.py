"""The pre-norm transformer block both towers are made of."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class DropPath(nn.Module):
    """Stochastic depth: leaves out a residual branch for random samples of a training batch."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, ...) to (B, ...), its expectation unchanged; the identity in evaluation."""
        if not self.training or self.rate == 0:
            return x
        kept = x.new_empty(x.shape[0], *[1] * (x.ndim - 1)).bernoulli_(1 - self.rate)
        return x * kept.div_(1 - self.rate)


class Mlp(nn.Sequential):
    """The feed-forward half of a block, on the last dimension."""

    def __init__(self, dim: int, *, ratio: float) -> None:
        hidden = int(dim * ratio)
        super().__init__(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(
        self, dim: int, *, attention: nn.Module, mlp_ratio: float = 4.0, drop_path: float = 0.0
    ) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(dim)
        self.attention = attention
        self.mlp_norm = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, ratio=mlp_ratio)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, *context: Tensor | None) -> Tensor:
        """Maps (B, ..., C) to (B, ..., C); `context` is handed on to the attention."""
        x = x + self.drop_path(self.attention(self.attention_norm(x), *context))
        return x + self.drop_path(self.mlp(self.mlp_norm(x)))


def run_blocks(
    blocks: Iterable[nn.Module], x: Tensor, *context: Tensor | None, recompute: bool
) -> Tensor:
    """Applies blocks in turn; with `recompute` the backward pass computes each one anew."""
    recompute = recompute and torch.is_grad_enabled()
    for block in blocks:
        x = checkpoint(block, x, *context, use_reentrant=False) if recompute else block(x, *context)
    return x
