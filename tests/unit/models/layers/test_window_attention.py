"""Window attention against a plain statement of it over all pairs of tokens."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from florence.models.layers.window_attention import WindowAttention

WINDOW = 4


def _attention(*, shifted: bool) -> WindowAttention:
    torch.manual_seed(0)
    attention = WindowAttention(8, num_heads=2, window_size=WINDOW, shifted=shifted).double()
    for parameter in attention.parameters():
        torch.nn.init.normal_(parameter)  # large enough for a mistake to show, biases included
    return attention


def _groups(side: int, *, shifted: bool) -> Tensor:
    """The window of each position, stated without any cyclic shift: windows start at the shift."""
    shift = WINDOW // 2 if shifted and side > WINDOW else 0
    return torch.div(torch.arange(side) - shift, WINDOW, rounding_mode="floor")


def _reference(attention: WindowAttention, x: Tensor) -> Tensor:
    """Softmax over all tokens of the map, minus infinity between tokens of different windows."""
    _, height, width, dim = x.shape
    heads, span = attention.attention.num_heads, 2 * WINDOW - 1
    row = torch.arange(height).repeat_interleave(width)
    column = torch.arange(width).repeat(height)
    window_row = _groups(height, shifted=attention.shifted)[row]
    window_column = _groups(width, shifted=attention.shifted)[column]
    together = (window_row[:, None] == window_row) & (window_column[:, None] == window_column)

    tokens = x.flatten(1, 2)
    outputs = []
    q, k, v = attention.attention.qkv(tokens).chunk(3, dim=-1)
    table = attention.relative_position_bias_table.view(span, span, heads)
    for head in range(heads):
        part = slice(head * dim // heads, (head + 1) * dim // heads)
        logits = q[..., part] @ k[..., part].transpose(1, 2) / (dim / heads) ** 0.5
        rows = (row[:, None] - row + WINDOW - 1).clamp(0, span - 1)
        columns = (column[:, None] - column + WINDOW - 1).clamp(0, span - 1)
        logits = (logits + table[rows, columns, head]).masked_fill(~together, float("-inf"))
        outputs.append(logits.softmax(-1) @ v[..., part])
    return attention.attention.proj(torch.cat(outputs, -1)).view_as(x)


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("size", [(8, 8), (4, 4), (2, 2), (3, 9), (7, 10), (13, 4), (1, 5)])
def test_equals_the_plain_statement(size: tuple[int, int], shifted: bool) -> None:
    attention = _attention(shifted=shifted)
    x = torch.randn(3, *size, 8, dtype=torch.double, requires_grad=True)
    weight = torch.randn_like(x)
    outcomes = []
    for compute in (attention, lambda x: _reference(attention, x)):
        attention.zero_grad()
        y = compute(x)
        (gradient,) = torch.autograd.grad((y * weight).sum(), x, retain_graph=True)
        (y * weight).sum().backward()
        outcomes.append([y, gradient, attention.relative_position_bias_table.grad])
    for ours, expected in zip(*outcomes, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-9)


def test_shifted_windows_do_not_reach_across_the_border() -> None:
    attention = _attention(shifted=True)
    x = torch.randn(1, 8, 8, 8, dtype=torch.double)
    changed = x.clone()
    changed[0, 0, 0] += 1
    differs = (attention(x) != attention(changed)).any(-1)[0]
    # The corner's window after a shift by 2 is 2 x 2; the cyclic shift puts it beside the other
    # three corners, which must not notice.
    expected = torch.zeros(8, 8, dtype=torch.bool)
    expected[:2, :2] = True
    assert torch.equal(differs, expected)


def test_unshifted_windows_are_independent() -> None:
    attention = _attention(shifted=False)
    x = torch.randn(1, 9, 8, 8, dtype=torch.double)
    changed = x.clone()
    changed[0, 8, 0] += 1  # alone in its row of windows, beside three rows of padding
    differs = (attention(x) != attention(changed)).any(-1)[0]
    assert differs[8, :4].all()
    assert differs.sum() == 4


def test_bf16_stays_bf16() -> None:
    attention = _attention(shifted=True).bfloat16()
    assert attention(torch.randn(1, 9, 9, 8, dtype=torch.bfloat16)).dtype == torch.bfloat16
