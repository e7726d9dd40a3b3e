"""CoSwin, the image encoder: Swin with the convolutional token embeddings of CvT (section 2.3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from florence.config.model import ImageEncoderConfig
from florence.models.layers.block import Block, run_blocks
from florence.models.layers.init import init_weights
from florence.models.layers.window_attention import WindowAttention


class ConvEmbed(nn.Module):
    """An overlapping convolution and a norm in the place of Swin's patch embedding and merging."""

    def __init__(self, in_dim: int, dim: int, *, kernel: int, stride: int, padding: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_dim, dim, kernel, stride=stride, padding=padding)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, H, W, in_dim) to (B, H / stride, W / stride, dim), in the weights' precision."""
        # In the channels-last format both permutations are free.
        x = x.permute(0, 3, 1, 2).to(self.conv.weight.dtype, memory_format=torch.channels_last)
        return self.norm(self.conv(x).permute(0, 2, 3, 1))


class Stage(nn.Module):
    """A convolutional embedding and transformer blocks, every other one with shifted windows."""

    def __init__(
        self, embed: ConvEmbed, blocks: list[Block], *, activation_checkpointing: bool
    ) -> None:
        super().__init__()
        self.embed = embed
        self.blocks = nn.ModuleList(blocks)
        self.activation_checkpointing = activation_checkpointing

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, H, W, in_dim) to (B, H / stride, W / stride, dim)."""
        return run_blocks(self.blocks, self.embed(x), recompute=self.activation_checkpointing)


class CoSwin(nn.Module):
    """The hierarchical image encoder; takes images of any size, not only multiples of a window."""

    def __init__(self, cfg: ImageEncoderConfig, *, activation_checkpointing: bool = False) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            Stage(
                _embed(cfg, stage),
                _blocks(cfg, stage),
                activation_checkpointing=activation_checkpointing,
            )
            for stage in range(len(cfg.depths))
        )
        self.norm = nn.LayerNorm(cfg.widths[-1])
        self.apply(init_weights)

    def forward_features(self, image: Tensor) -> tuple[Tensor, ...]:
        """Returns the map of every stage, (B, H/4, W/4, C), (B, H/8, W/8, 2C), ..., not normed.

        `image` is (B, 3, H, W), normalised, in any floating-point precision.
        """
        x = image.permute(0, 2, 3, 1)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return tuple(maps)

    def forward(self, image: Tensor) -> Tensor:
        """Encodes (B, 3, H, W) images as (B, C): the last map, normed and averaged."""
        return self.norm(self.forward_features(image)[-1]).mean(dim=(1, 2))


def _embed(cfg: ImageEncoderConfig, stage: int) -> ConvEmbed:
    if stage == 0:
        return ConvEmbed(3, cfg.embed_dim, kernel=7, stride=4, padding=2)
    before, width = cfg.widths[stage - 1 : stage + 1]
    return ConvEmbed(before, width, kernel=3, stride=2, padding=1)


def _blocks(cfg: ImageEncoderConfig, stage: int) -> list[Block]:
    """Returns a stage's blocks; the drop path rate grows linearly over the blocks of all stages."""
    width = cfg.widths[stage]
    first, last = sum(cfg.depths[:stage]), sum(cfg.depths) - 1
    return [
        Block(
            width,
            attention=WindowAttention(
                width,
                num_heads=cfg.num_heads[stage],
                window_size=cfg.window_size,
                shifted=block % 2 == 1,
            ),
            mlp_ratio=cfg.mlp_ratio,
            drop_path=cfg.drop_path_rate * (first + block) / max(last, 1),
        )
        for block in range(cfg.depths[stage])
    ]
