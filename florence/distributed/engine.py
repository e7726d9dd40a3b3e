"""Builds the DeepSpeed engine that runs a training step, and reads whole weights back from it."""

from __future__ import annotations

import deepspeed
import torch
from deepspeed import DeepSpeedEngine
from torch import Tensor, nn

from florence.config.run import TrainRun
from florence.distributed.zero import deepspeed_config

# On CPUs DeepSpeed compiles an all-reduce through shared memory when it starts. Only inference uses
# it, it needs a compiler, and it cannot be built in a folder whose name has a space.
deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False

Engine = DeepSpeedEngine
"""What runs a training step; called like the module inside it."""


def build_engine(module: nn.Module, *, optimizer: torch.optim.Optimizer, run: TrainRun) -> Engine:
    """Wraps a module and its optimizer into an engine; parameters are broadcast from rank 0."""
    engine, *_ = deepspeed.initialize(
        model=module, optimizer=optimizer, config=deepspeed_config(run)
    )
    return engine


def full_state_dict(engine: Engine) -> dict[str, Tensor]:
    """Returns the module's whole weights on the CPU, on rank 0; other ranks get an empty dict.

    Under ZeRO 3 every rank must call this, because parameters are gathered one by one.
    """
    is_main = engine.global_rank == 0
    state: dict[str, Tensor] = {}
    for name, parameter in engine.module.named_parameters():
        with deepspeed.zero.GatheredParameters(
            [parameter], enabled=engine.zero_optimization_partition_weights()
        ):
            if is_main:
                state[name] = parameter.detach().to("cpu", copy=True)
    if is_main:
        state.update({name: buffer.cpu() for name, buffer in _persistent_buffers(engine.module)})
    return state


def _persistent_buffers(module: nn.Module) -> list[tuple[str, Tensor]]:
    saved = module.state_dict().keys()
    return [(name, buffer) for name, buffer in module.named_buffers() if name in saved]
