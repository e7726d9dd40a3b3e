"""Multi-head self-attention on PyTorch's fused kernels."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention


class SelfAttention(nn.Module):
    """Attention of every token of a sequence to all of them or, if causal, to those before it."""

    def __init__(self, dim: int, *, num_heads: int, causal: bool = False) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.causal = causal
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Maps (B, L, C) to (B, L, C).

        `mask` broadcasts to (B, heads, L, L): True = may attend, or a float added to the logits.
        Causal attention takes none.
        """
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).transpose(1, 3).unbind(2)
        x = scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=self.causal)
        return self.proj(x.transpose(1, 2).flatten(2))
