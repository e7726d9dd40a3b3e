"""The union of evaluations a run can make of a model."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt

from florence.config.base import Section


class ZeroShotConfig(Section):
    """Zero-shot classification with a prompt ensemble (paper section 3.1)."""

    name: Literal["zero_shot"] = "zero_shot"
    dataset: str = Field(
        pattern=r"^[a-z0-9_]+$", description="name in metrics: eval/<dataset>_zero_shot/top1"
    )
    path: str = Field(description="folder of the evaluation shards (MDS)")
    batch_size: PositiveInt = Field(256, description="images per rank and forward pass")
    templates: tuple[str, ...] | None = Field(
        None, description="prompt templates with one {}; null = the built-in ensemble"
    )


AnyEvaluation = ZeroShotConfig
"""A discriminated union on `name` as soon as there are two evaluations."""
