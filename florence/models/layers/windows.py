"""Cuts feature maps into attention windows, shifted or not (Swin Transformer, section 3.2).

Padding, shift and window boundaries are all one thing here, a label per token: only tokens of the
same window and the same label attend to each other. Tokens that the cyclic shift brought in from
the other side have a label of their own, and so has padding, which therefore changes nothing.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor


@dataclass(frozen=True)
class WindowGrid:
    """How an (H, W) map is cut into windows: sizes as (rows, columns), in tokens."""

    size: tuple[int, int]
    window: tuple[int, int]
    shift: tuple[int, int]

    @property
    def padding(self) -> tuple[int, int]:
        """Rows and columns added at the bottom and right to fill the last windows."""
        (height, width), (rows, columns) = self.size, self.window
        return -height % rows, -width % columns

    def split(self, x: Tensor) -> Tensor:
        """Cuts (B, H, W, C) into (B * windows, tokens, C), the windows of an image in sequence."""
        if any(self.padding):
            x = F.pad(x, (0, 0, 0, self.padding[1], 0, self.padding[0]))
        if any(self.shift):
            x = x.roll((-self.shift[0], -self.shift[1]), dims=(1, 2))
        x = x.unflatten(2, (-1, self.window[1])).unflatten(1, (-1, self.window[0]))
        return x.transpose(2, 3).flatten(3, 4).flatten(0, 2)

    def join(self, windows: Tensor) -> Tensor:
        """Puts (B * windows, tokens, C) back together as (B, H, W, C): the inverse of `split`."""
        height, width = (s + p for s, p in zip(self.size, self.padding, strict=True))
        grid = (-1, height // self.window[0], width // self.window[1])
        x = windows.unflatten(1, self.window).unflatten(0, grid)
        x = x.transpose(2, 3).flatten(3, 4).flatten(1, 2)
        if any(self.shift):
            x = x.roll(self.shift, dims=(1, 2))
        if any(self.padding):
            x = x[:, : self.size[0], : self.size[1]]
        return x


@dataclass(frozen=True)
class WindowLayout:
    """A grid with what attention inside its windows of N tokens needs, on one device.

    `bias_index` (N, N): the row of the relative position bias table for a query and a key.
    `blocked` (windows, 1, N, N): True where attention is forbidden; None if it nowhere is.
    """

    grid: WindowGrid
    bias_index: Tensor
    blocked: Tensor | None


@functools.lru_cache(maxsize=32)
def window_layout(
    height: int, width: int, *, window_size: int, shifted: bool, device: torch.device
) -> WindowLayout:
    """Returns the layout of an (H, W) map, remembered for the maps seen last.

    A side that is not larger than the window is one window of exactly that side, never shifted.
    """
    sides = (height, width)
    rows, columns = (min(side, window_size) for side in sides)
    top, left = (window_size // 2 if shifted and side > window_size else 0 for side in sides)
    grid = WindowGrid(size=sides, window=(rows, columns), shift=(top, left))
    # Were these made in inference mode, a later training step could not use them.
    with torch.inference_mode(False):
        return WindowLayout(
            grid=grid,
            bias_index=_bias_index(grid, window_size, device),
            blocked=_blocked(grid, device) if any(grid.shift + grid.padding) else None,
        )


def _bias_index(grid: WindowGrid, window_size: int, device: torch.device) -> Tensor:
    """Returns (N, N): where each query's offset to each key is in the (2 * window_size - 1)^2."""
    rows, columns = grid.window
    row = torch.arange(rows, device=device).repeat_interleave(columns)
    column = torch.arange(columns, device=device).repeat(rows)
    row_offset = row[:, None] - row + window_size - 1
    column_offset = column[:, None] - column + window_size - 1
    return row_offset * (2 * window_size - 1) + column_offset


def _blocked(grid: WindowGrid, device: torch.device) -> Tensor:
    """Returns (windows, 1, N, N): True where query and key have different labels."""
    (height, width), (top, left) = grid.size, grid.shift
    from_top = torch.arange(height, device=device) < top
    from_left = torch.arange(width, device=device) < left
    labels = 1 + 2 * from_top[:, None] + from_left  # `split` pads with 0, the label of padding
    labels = grid.split(labels[None, :, :, None])
    return (labels != labels.transpose(1, 2)).unsqueeze(1)
