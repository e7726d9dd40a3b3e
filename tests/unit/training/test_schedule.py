"""The learning rate is a function of the step alone."""

from __future__ import annotations

import pytest

from florence.config.optim import OptimConfig
from florence.training.schedule import learning_rate

CFG = OptimConfig(lr=1.0, min_lr=0.1, warmup_steps=10)


@pytest.mark.parametrize(("step", "rate"), [(1, 0.1), (5, 0.5), (10, 1.0), (60, 0.55), (110, 0.1)])
def test_warm_up_then_half_a_cosine(step: int, rate: float) -> None:
    assert learning_rate(CFG, step=step, total_steps=110) == pytest.approx(rate)


def test_without_warm_up_the_first_step_is_near_the_peak() -> None:
    cfg = OptimConfig(lr=1.0, warmup_steps=0)
    assert learning_rate(cfg, step=1, total_steps=1000) == pytest.approx(1.0, abs=1e-4)
