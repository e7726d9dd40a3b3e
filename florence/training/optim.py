"""AdamW with the usual no-decay group."""

from __future__ import annotations

from torch import nn
from torch.optim import AdamW

from florence.config.optim import OptimConfig


def build_optimizer(module: nn.Module, cfg: OptimConfig) -> AdamW:
    """Returns AdamW over the trainable parameters in two groups: decayed and not decayed."""
    decayed, plain = split_by_decay(module)
    groups = [
        {"params": list(decayed.values()), "weight_decay": cfg.weight_decay},
        {"params": list(plain.values()), "weight_decay": 0.0},
    ]
    return AdamW(groups, lr=cfg.lr, betas=cfg.betas, eps=cfg.eps)


def split_by_decay(
    module: nn.Module,
) -> tuple[dict[str, nn.Parameter], dict[str, nn.Parameter]]:
    """Splits parameters by name into (decayed, not decayed).

    Not decayed, as in CLIP and Swin: everything of one dimension (biases, norms, the logit scale),
    embeddings, and position tables. Decided by owner and name rather than by shape, because ZeRO 3
    flattens shapes.
    """
    decayed, plain = {}, {}
    for prefix, owner in module.named_modules():
        for name, parameter in owner.named_parameters(prefix, recurse=False):
            if not parameter.requires_grad:
                continue
            exempt = (
                isinstance(owner, nn.Embedding | nn.LayerNorm)
                or name.endswith("bias")
                or "position" in name
                or "logit_scale" in name
            )
            (plain if exempt else decayed)[name] = parameter
    return decayed, plain
