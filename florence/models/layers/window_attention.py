"""Attention inside (shifted) windows with a learned relative position bias (Swin Transformer)."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from florence.models.layers.attention import SelfAttention
from florence.models.layers.windows import WindowLayout, window_layout


class WindowAttention(nn.Module):
    """Self-attention among the tokens of each window of a feature map of any size."""

    def __init__(self, dim: int, *, num_heads: int, window_size: int, shifted: bool) -> None:
        super().__init__()
        self.window_size = window_size
        self.shifted = shifted
        self.attention = SelfAttention(dim, num_heads=num_heads)
        self.relative_position_bias_table = nn.Parameter(
            torch.empty((2 * window_size - 1) ** 2, num_heads)
        )
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, H, W, C) to (B, H, W, C)."""
        layout = window_layout(
            x.shape[1],
            x.shape[2],
            window_size=self.window_size,
            shifted=self.shifted,
            device=x.device,
        )
        windows = self.attention(layout.grid.split(x), self._bias(layout, batch=x.shape[0]))
        return layout.grid.join(windows)

    def _bias(self, layout: WindowLayout, *, batch: int) -> Tensor:
        """Returns what is added to the logits, broadcasting to (B * windows, heads, N, N)."""
        bias = F.embedding(layout.bias_index, self.relative_position_bias_table)
        bias = bias.permute(2, 0, 1).unsqueeze(0)
        if layout.blocked is None:
            return bias
        return bias.masked_fill(layout.blocked, float("-inf")).repeat(batch, 1, 1, 1)
