"""What a training run reads: shards, tokenizer, augmentation and loader settings."""

from __future__ import annotations

from typing import Self

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from florence.config.base import Section


class AugmentConfig(Section):
    """Training-time image augmentation (the paper does not publish its own)."""

    crop_scale: tuple[float, float] = Field(
        (0.9, 1.0), description="area kept by the random crop, as a range of the image's area"
    )
    horizontal_flip: bool = False

    @model_validator(mode="after")
    def _check(self) -> Self:
        low, high = self.crop_scale
        if not 0 < low <= high <= 1:
            raise ValueError(f"crop_scale = {self.crop_scale} is not 0 < low <= high <= 1")
        return self


class DataConfig(Section):
    """The stream of image-text pairs a run trains on."""

    train: str = Field(description="folder or URL of the training shards (MDS)")
    tokenizer: str | None = Field(
        None, description="tokenizer.json or CLIP BPE vocabulary; null = the one beside the shards"
    )
    cache_dir: str | None = Field(
        None, description="node-local folder for shards read from a URL; required for URLs"
    )
    prompts: bool = Field(
        True, description="put one- and two-word texts into a random template (stage 1 only)"
    )
    augment: AugmentConfig = AugmentConfig()
    num_workers: NonNegativeInt = Field(2, description="loader processes per rank")
    num_canonical_nodes: PositiveInt = Field(
        1, description="keeps the order of samples the same on any number of nodes dividing it"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if "://" in self.train and self.cache_dir is None:
            raise ValueError(f"cache_dir is required because train = {self.train!r} is a URL")
        return self
