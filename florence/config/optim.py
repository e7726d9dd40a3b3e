"""Optimiser and learning-rate schedule.

The paper names AdamW and nothing else (section 2.3); the defaults are CLIP's for the betas, eps
and warm-up, because UniCL's linear learning-rate rule is far too large at batch 24,576.
"""

from __future__ import annotations

from pydantic import Field, NonNegativeInt

from florence.config.base import Section


class OptimConfig(Section):
    """AdamW with decoupled weight decay, linear warm-up and a cosine to `min_lr`."""

    lr: float = Field(5e-4, gt=0, description="peak learning rate")
    min_lr: float = Field(0.0, ge=0, description="learning rate at the last step")
    warmup_steps: NonNegativeInt = Field(2000, description="steps of linear warm-up from 0")
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = Field(1e-6, gt=0)
    weight_decay: float = Field(
        0.2, ge=0, description="not applied to biases, norms, embeddings, tables, logit scale"
    )
    max_grad_norm: float = Field(1.0, gt=0, description="clip the global gradient norm to this")
