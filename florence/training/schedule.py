"""The learning rate as a pure function of the step, so that resuming needs no state."""

from __future__ import annotations

import math

from florence.config.optim import OptimConfig


def learning_rate(cfg: OptimConfig, *, step: int, total_steps: int) -> float:
    """Returns the rate of optimizer step `step` (1-based): linear warm-up, then half a cosine."""
    if step <= cfg.warmup_steps:
        return cfg.lr * step / cfg.warmup_steps
    progress = (step - cfg.warmup_steps) / (total_steps - cfg.warmup_steps)
    return cfg.min_lr + (cfg.lr - cfg.min_lr) * 0.5 * (1 + math.cos(math.pi * progress))
