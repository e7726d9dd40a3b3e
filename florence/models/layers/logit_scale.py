"""The learnt temperature, multiplied with the cosines (tau of paper equations 1 to 3)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn


class LogitScale(nn.Module):
    """A positive factor, learnt in log space and held at or below `maximum`."""

    def __init__(self, initial: float, *, maximum: float) -> None:
        super().__init__()
        # One dimension because DeepSpeed refuses parameters of none.
        self.log_scale = nn.Parameter(torch.full((1,), math.log(initial)))
        self.maximum = maximum

    def forward(self) -> Tensor:
        """Returns the factor, (1,) in fp32."""
        return _HoldBelow.apply(self.log_scale.float(), math.log(self.maximum)).exp()


class _HoldBelow(torch.autograd.Function):
    """A clamp that lets through the gradients which lead back below the bound.

    `clamp` has no gradient above its bound, so a scale that once stepped over it would be stuck;
    cutting the parameter itself, as CLIP does, is no choice where ZeRO owns it.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, bound: float) -> Tensor:
        ctx.save_for_backward(x > bound)
        return x.clamp(max=bound)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (above,) = ctx.saved_tensors
        return gradient.masked_fill(above & (gradient < 0), 0), None
