"""The temperature: its start, its bound, and the way back below it."""

from __future__ import annotations

import math

import pytest
import torch

from florence.models.layers.logit_scale import LogitScale


def test_starts_at_the_given_factor() -> None:
    scale = LogitScale(1 / 0.07, maximum=100)
    assert scale().item() == pytest.approx(1 / 0.07)
    assert scale().shape == (1,)
    assert scale.bfloat16()().dtype == torch.float32


@pytest.mark.parametrize(("sign", "moves"), [(1, True), (-1, False)])
def test_above_the_bound_only_the_way_back_has_a_gradient(sign: int, moves: bool) -> None:
    scale = LogitScale(120, maximum=100)
    assert scale().item() == pytest.approx(100)
    (sign * scale()).sum().backward()  # a positive gradient lowers the scale
    assert scale.log_scale.grad is not None
    assert bool(scale.log_scale.grad) is moves


def test_below_the_bound_it_is_a_plain_exponential() -> None:
    scale = LogitScale(3, maximum=math.inf)
    scale().sum().backward()
    assert scale.log_scale.grad is not None
    assert scale.log_scale.grad.item() == pytest.approx(3)
