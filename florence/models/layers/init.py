"""Initialises weights as Swin and CLIP do: truncated normal of deviation 0.02, biases zero."""

from __future__ import annotations

from torch import nn


def init_weights(module: nn.Module) -> None:
    """Initialises one linear layer, convolution or embedding; to be given to `Module.apply`."""
    if isinstance(module, nn.Linear | nn.Conv2d | nn.Embedding):
        nn.init.trunc_normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear | nn.Conv2d) and module.bias is not None:
        nn.init.zeros_(module.bias)
