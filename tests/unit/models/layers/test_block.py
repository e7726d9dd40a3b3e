"""Blocks: stochastic depth, the precision of norms, and recomputation."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from florence.models.layers.attention import SelfAttention
from florence.models.layers.block import Block, DropPath, run_blocks


def test_drop_path_keeps_the_expectation_and_drops_whole_samples() -> None:
    torch.manual_seed(0)
    dropped = DropPath(0.25)(torch.ones(20_000, 2, 3))
    per_sample = dropped.flatten(1)
    assert (per_sample == per_sample[:, :1]).all()
    assert per_sample.unique().tolist() == pytest.approx([0, 1 / 0.75])
    assert dropped.mean().item() == pytest.approx(1, abs=0.02)


def test_drop_path_is_the_identity_in_evaluation_and_at_rate_zero() -> None:
    x = torch.randn(4, 3)
    assert DropPath(0.9).eval()(x) is x
    assert DropPath(0.0).train()(x) is x


def test_norms_compute_in_fp32_under_bf16() -> None:
    """What `layers/__init__.py` relies on: the fp32 result, rounded once."""
    torch.manual_seed(0)
    x, weight, bias = (
        (torch.randn(shape) * 5 + 3).bfloat16() for shape in [(64, 96), (96,), (96,)]
    )
    ours = F.layer_norm(x, (96,), weight, bias)
    exact = F.layer_norm(x.double(), (96,), weight.double(), bias.double())
    assert ours.dtype == torch.bfloat16
    torch.testing.assert_close(ours.double(), exact, rtol=2**-8, atol=1e-5)


def test_recomputed_gradients_are_bit_identical() -> None:
    torch.manual_seed(0)
    blocks = [Block(8, attention=SelfAttention(8, num_heads=2), drop_path=0.5) for _ in range(3)]
    x = torch.randn(6, 5, 8)
    gradients = []
    for recompute in (False, True):
        torch.manual_seed(1)
        leaf = x.clone().requires_grad_()
        run_blocks(blocks, leaf, recompute=recompute).square().sum().backward()
        gradients.append([leaf.grad, *(p.grad for block in blocks for p in block.parameters())])
        for block in blocks:
            block.zero_grad()
    assert all(torch.equal(kept, anew) for kept, anew in zip(*gradients, strict=True))
