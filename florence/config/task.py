"""The union of tasks a run can train; being in the union is the registration."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from florence.config.base import Section


class UniCLTaskConfig(Section):
    """Unified contrastive pretraining of the two towers (paper section 2.2, equations 1-3)."""

    name: Literal["unicl"] = "unicl"
    init_logit_scale: float = Field(
        14.285714, gt=0, description="initial temperature factor, multiplied with the cosine"
    )
    max_logit_scale: float = Field(100.0, gt=0, description="upper bound of the learnt factor")


AnyTask = UniCLTaskConfig
"""A discriminated union on `name` as soon as there are two tasks."""
