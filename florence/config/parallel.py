"""How one training step is spread over memory and machines (paper section 2.7)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt

from florence.config.base import Section


class ParallelConfig(Section):
    """ZeRO stage, precision, gradient cache and activation checkpointing."""

    zero_stage: int = Field(
        1, ge=0, le=3, description="what ranks share: 1 optimizer, 2 + gradients, 3 + parameters"
    )
    precision: Literal["fp32", "bf16"] = "bf16"
    chunk_size: PositiveInt | None = Field(
        None, description="gradient cache: samples a tower encodes at once; null = the whole batch"
    )
    activation_checkpointing: bool = Field(
        False, description="recompute every block in the backward pass instead of keeping it"
    )
