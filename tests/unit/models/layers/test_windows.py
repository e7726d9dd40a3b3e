"""Windows: cutting and joining are inverse, layouts are remembered and usable everywhere."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from florence.models.layers.windows import WindowGrid, WindowLayout, window_layout

CPU = torch.device("cpu")


def _layout(height: int, width: int, *, shifted: bool) -> WindowLayout:
    return window_layout(height, width, window_size=4, shifted=shifted, device=CPU)


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("size", [(8, 8), (4, 4), (3, 2), (9, 5), (12, 3), (1, 1)])
def test_join_undoes_split(size: tuple[int, int], shifted: bool) -> None:
    grid = _layout(*size, shifted=shifted).grid
    x = torch.randn(2, *size, 3)
    windows = grid.split(x)
    assert windows.shape[1] == grid.window[0] * grid.window[1]
    assert torch.equal(grid.join(windows), x)


def test_windows_of_an_image_are_in_sequence() -> None:
    x = torch.arange(2 * 8 * 8).view(2, 8, 8, 1)
    windows = _layout(8, 8, shifted=False).grid.split(x)
    assert torch.equal(windows[1].flatten(), x[0, :4, 4:].flatten())
    assert torch.equal(windows[4].flatten(), x[1, :4, :4].flatten())


def test_a_side_within_the_window_is_one_window_of_that_side() -> None:
    assert _layout(3, 9, shifted=True).grid == WindowGrid(size=(3, 9), window=(3, 4), shift=(0, 2))


def test_nothing_is_blocked_without_shift_and_padding() -> None:
    assert _layout(8, 8, shifted=False).blocked is None
    assert _layout(4, 3, shifted=True).blocked is None


def test_layout_is_computed_once() -> None:
    assert _layout(8, 12, shifted=True) is _layout(8, 12, shifted=True)


def test_layout_first_made_in_inference_mode_can_train() -> None:
    window_layout.cache_clear()
    with torch.inference_mode():
        layout = _layout(8, 8, shifted=True)
    table = nn.Parameter(torch.zeros(49, 1))
    bias: Tensor = nn.functional.embedding(layout.bias_index, table).permute(2, 0, 1)
    bias.masked_fill(layout.blocked, 1.0).sum().backward()
    assert table.grad is not None
