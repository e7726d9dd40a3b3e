"""Sizes of the two towers and the presets (paper section 2.3).

The paper prints only totals: image tower 637M, text tower 256M, 893M in all. `huge` is the
configuration recovered from those totals, from X-CLIP's published FLOPs of the same encoder (88.2
GMAC per 224 px image) and from the 647M of Video CoSwin: dim 256, depths 2-2-24-6, head size 32,
and a 1024-wide text transformer of 16 heads with 102,400 tokens.
"""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from florence.config.base import Section

Preset = Literal["pico", "tiny", "base", "large", "huge"]


class ImageEncoderConfig(Section):
    """CoSwin: a Swin transformer whose patch embedding and merging are overlapping convolutions.

    `depths`, `num_heads` and `window_size` follow Swin; the width doubles at every stage.
    """

    image_size: PositiveInt = Field(224, description="side of the square input, pixels")
    embed_dim: PositiveInt = Field(96, description="channels of the first stage")
    depths: tuple[PositiveInt, ...] = Field((2, 2, 6, 2), description="blocks of each stage")
    num_heads: tuple[PositiveInt, ...] = Field((3, 6, 12, 24), description="heads of each stage")
    window_size: PositiveInt = Field(7, description="side of an attention window, tokens")
    mlp_ratio: float = Field(4.0, gt=0, description="hidden width of an MLP over its input width")
    drop_path_rate: float = Field(0.0, ge=0, lt=1, description="stochastic depth, last block")

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each stage; the last is the size of an image's feature before projection."""
        return tuple(self.embed_dim * 2**stage for stage in range(len(self.depths)))

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(self.depths) != len(self.num_heads):
            raise ValueError(
                f"depths has {len(self.depths)} stages but num_heads has {len(self.num_heads)}"
            )
        for stage, (width, heads) in enumerate(zip(self.widths, self.num_heads, strict=True)):
            if width % heads:
                raise ValueError(
                    f"num_heads[{stage}] = {heads} does not divide the width {width} "
                    f"of stage {stage}"
                )
        return self


class TextEncoderConfig(Section):
    """The text tower: a pre-norm transformer with learned positions and EOT pooling."""

    vocab_size: PositiveInt = 49408
    context_length: PositiveInt = Field(76, description="tokens, longer texts are cut (paper: 76)")
    width: PositiveInt = 512
    num_heads: PositiveInt = 8
    num_layers: PositiveInt = 12
    causal: bool = Field(True, description="causal attention as in CLIP; the paper does not say")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.width % self.num_heads:
            raise ValueError(f"num_heads = {self.num_heads} does not divide width = {self.width}")
        return self


PRESETS: dict[str, dict[str, Any]] = {
    "pico": {
        "embed_dim": 64,
        "image": {
            "image_size": 32,
            "embed_dim": 32,
            "depths": (2, 2, 2),
            "num_heads": (1, 2, 4),
            "window_size": 4,
        },
        "text": {
            "vocab_size": 512,
            "context_length": 24,
            "width": 64,
            "num_heads": 2,
            "num_layers": 2,
        },
    },
    "tiny": {
        "embed_dim": 512,
        "image": {
            "embed_dim": 96,
            "depths": (2, 2, 6, 2),
            "num_heads": (3, 6, 12, 24),
            "drop_path_rate": 0.1,
        },
        "text": {"width": 512, "num_heads": 8},
    },
    "base": {
        "embed_dim": 512,
        "image": {
            "embed_dim": 128,
            "depths": (2, 2, 18, 2),
            "num_heads": (4, 8, 16, 32),
            "drop_path_rate": 0.2,
        },
        "text": {"width": 512, "num_heads": 8},
    },
    "large": {
        "embed_dim": 768,
        "image": {
            "embed_dim": 192,
            "depths": (2, 2, 18, 2),
            "num_heads": (6, 12, 24, 48),
            "drop_path_rate": 0.2,
        },
        "text": {"width": 768, "num_heads": 12},
    },
    "huge": {
        "embed_dim": 1024,
        "image": {
            "embed_dim": 256,
            "depths": (2, 2, 24, 6),
            "num_heads": (8, 16, 32, 64),
            "drop_path_rate": 0.2,
        },
        "text": {"vocab_size": 102400, "width": 1024, "num_heads": 16},
    },
}


class ModelConfig(Section):
    """The two-tower model; fields given beside `preset` win over the preset's."""

    preset: Preset | None = Field(None, description="fills in every size not given here")
    embed_dim: PositiveInt = Field(512, description="size of the shared image-text space")
    image: ImageEncoderConfig = ImageEncoderConfig()
    text: TextEncoderConfig = TextEncoderConfig()

    @model_validator(mode="before")
    @classmethod
    def _fill_from_preset(cls, data: Any) -> Any:
        preset = PRESETS.get(data.get("preset") or "") if isinstance(data, dict) else None
        if preset is None:
            return data
        filled = {**preset, **data}
        for tower in ("image", "text"):
            given = data.get(tower, {})
            if isinstance(given, dict):
                filled[tower] = {**preset[tower], **given}
        return filled
