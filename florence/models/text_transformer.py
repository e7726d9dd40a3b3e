"""The text encoder: a 12-layer pre-norm transformer, pooled at the end of the text (section 2.3).

The paper calls it CLIP-like and says no more. It differs from CLIP's in its activation, GELU in the
place of QuickGELU: the approximation is only of use with CLIP's own weights.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from florence.config.model import TextEncoderConfig
from florence.models.layers.attention import SelfAttention
from florence.models.layers.block import Block, run_blocks
from florence.models.layers.init import init_weights
from florence.util.errors import UserError


class TextTransformer(nn.Module):
    """Encodes a text as the feature of its last token (EOT)."""

    def __init__(self, cfg: TextEncoderConfig, *, activation_checkpointing: bool = False) -> None:
        super().__init__()
        self.context_length = cfg.context_length
        self.causal = cfg.causal
        self.activation_checkpointing = activation_checkpointing
        self.token_embedding = nn.Embedding(cfg.vocab_size, cfg.width)
        self.position_embedding = nn.Embedding(cfg.context_length, cfg.width)
        self.blocks = nn.ModuleList(
            Block(
                cfg.width,
                attention=SelfAttention(cfg.width, num_heads=cfg.num_heads, causal=cfg.causal),
            )
            for _ in range(cfg.num_layers)
        )
        self.norm = nn.LayerNorm(cfg.width)
        self.apply(init_weights)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Encodes (B, L) tokens, L <= context_length, as (B, width).

        `attention_mask` (B, L) is 1 for tokens and 0 for the padding after them.
        """
        batch, length = input_ids.shape
        if length > self.context_length:
            raise UserError(
                f"a text of {length} tokens does not fit text.context_length = "
                f"{self.context_length}; cut it when it is tokenised"
            )
        x = self.token_embedding(input_ids)
        x = x + self.position_embedding(torch.arange(length, device=x.device))
        # Causal attention never sees the padding, which comes last, and needs no mask for it.
        mask = None if self.causal else attention_mask.bool()[:, None, None, :]
        x = run_blocks(self.blocks, x, mask, recompute=self.activation_checkpointing)
        end = attention_mask.sum(dim=1) - 1
        return self.norm(x[torch.arange(batch, device=x.device), end])
