"""The two-tower Florence model: images and texts in one space of unit vectors (section 2.3)."""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from florence.config.model import ModelConfig
from florence.models.coswin import CoSwin
from florence.models.layers.init import init_weights
from florence.models.layers.logit_scale import LogitScale
from florence.models.text_transformer import TextTransformer


class FlorenceOutput(NamedTuple):
    """Unit vectors of both towers, (B, embed_dim) in fp32, and the logit scale, (1,)."""

    image_features: Tensor
    text_features: Tensor
    logit_scale: Tensor


class FlorenceModel(nn.Module):
    """CoSwin and the text transformer, each with a linear projection, and the temperature."""

    def __init__(
        self,
        cfg: ModelConfig,
        *,
        init_logit_scale: float,
        max_logit_scale: float,
        activation_checkpointing: bool,
    ) -> None:
        super().__init__()
        self.config = cfg
        self.image_encoder = CoSwin(cfg.image, activation_checkpointing=activation_checkpointing)
        self.text_encoder = TextTransformer(
            cfg.text, activation_checkpointing=activation_checkpointing
        )
        self.image_projection = nn.Linear(cfg.image.widths[-1], cfg.embed_dim, bias=False)
        self.text_projection = nn.Linear(cfg.text.width, cfg.embed_dim, bias=False)
        self.logit_scale = LogitScale(init_logit_scale, maximum=max_logit_scale)
        self.image_projection.apply(init_weights)
        self.text_projection.apply(init_weights)

    def encode_image(self, image: Tensor) -> Tensor:
        """Embeds (B, 3, H, W) normalised images as (B, embed_dim) unit vectors in fp32."""
        features = self.image_projection(self.image_encoder(image))
        return F.normalize(features.float(), dim=-1)

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Embeds (B, L) tokens as (B, embed_dim) unit vectors in fp32; 0 in the mask is padding."""
        features = self.text_projection(self.text_encoder(input_ids, attention_mask))
        return F.normalize(features.float(), dim=-1)

    def forward(self, image: Tensor, input_ids: Tensor, attention_mask: Tensor) -> FlorenceOutput:
        """Embeds images and texts; see `encode_image` and `encode_text` for the shapes."""
        return FlorenceOutput(
            image_features=self.encode_image(image),
            text_features=self.encode_text(input_ids, attention_mask),
            logit_scale=self.logit_scale(),
        )
