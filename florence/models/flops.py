"""Counts parameters and multiply-accumulates on the meta device, where nothing is computed."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from florence.config.model import ModelConfig
from florence.models.build import build_model
from florence.models.florence import FlorenceModel


class TowerCount(NamedTuple):
    """A figure for each tower, its projection included; the logit scale belongs to neither."""

    image: int
    text: int

    @property
    def total(self) -> int:
        """Both towers together."""
        return self.image + self.text


def count_parameters(cfg: ModelConfig) -> TowerCount:
    """Counts the parameters of each tower."""
    model = _on_meta(cfg)
    return TowerCount(
        image=_parameters(model.image_encoder, model.image_projection),
        text=_parameters(model.text_encoder, model.text_projection),
    )


def count_macs(cfg: ModelConfig) -> TowerCount:
    """Counts the forward pass's multiply-accumulates for one image and one full-length text.

    Those of convolutions and matrix products; a training step takes three times as many.
    """
    model = _on_meta(cfg)
    side, length = cfg.image.image_size, cfg.text.context_length
    image = torch.empty(1, 3, side, side, device="meta")
    tokens = torch.empty(1, length, dtype=torch.long, device="meta")
    with FlopCounterMode(display=False) as image_counter:
        model.encode_image(image)
    with FlopCounterMode(display=False) as text_counter:
        model.encode_text(tokens, tokens)
    return TowerCount(
        image=image_counter.get_total_flops() // 2, text=text_counter.get_total_flops() // 2
    )


def _on_meta(cfg: ModelConfig) -> FlorenceModel:
    with torch.device("meta"):
        return build_model(cfg)


def _parameters(*modules: nn.Module) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())
