"""Constructs a model from its configuration."""

from __future__ import annotations

import math

from florence.config.model import ModelConfig
from florence.models.florence import FlorenceModel


def build_model(
    cfg: ModelConfig,
    *,
    init_logit_scale: float = 1 / 0.07,
    max_logit_scale: float = math.inf,
    activation_checkpointing: bool = False,
) -> FlorenceModel:
    """Returns a model with freshly initialised weights, drawn from torch's global generator.

    `max_logit_scale` only matters in training; `activation_checkpointing` recomputes every block
    in the backward pass instead of keeping its activations.
    """
    return FlorenceModel(
        cfg,
        init_logit_scale=init_logit_scale,
        max_logit_scale=max_logit_scale,
        activation_checkpointing=activation_checkpointing,
    )
