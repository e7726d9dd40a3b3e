"""Joins this process to the others of its job: torchrun's environment -> process group and device.

The only reader of environment variables in the data plane.
"""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from florence.util.errors import InfrastructureError, UserError

DEFAULT_TIMEOUT_S = 1800.0


@dataclass(frozen=True)
class RankInfo:
    """This process's place among all (rank of world_size) and on its node (local_...)."""

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """True on the one rank that writes, prints and tracks."""
        return self.rank == 0


def init_distributed(*, timeout_s: float = DEFAULT_TIMEOUT_S) -> RankInfo:
    """Starts the process group, NCCL on CUDA and gloo on CPU; without torchrun a group of one.

    A collective that waits longer than `timeout_s` seconds fails. DeepSpeed takes the group over as
    it is. Raises UserError when the node has fewer GPUs than processes, InfrastructureError when
    the other ranks cannot be reached.
    """
    under_torchrun = dist.is_torchelastic_launched()
    if under_torchrun:
        rank, world_size, local_rank, local_world_size = (
            int(os.environ[name])
            for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        )
    else:
        rank, world_size, local_rank, local_world_size = 0, 1, 0, 1
        os.environ["LOCAL_RANK"] = "0"  # DeepSpeed's engine refuses to start without it
    device = _bind_device(local_rank, local_world_size)
    try:
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            # One process needs no port: two runs on a machine never collide.
            store=None if under_torchrun else dist.HashStore(),
            rank=rank,
            world_size=world_size,
            timeout=timedelta(seconds=timeout_s),
            device_id=device if device.type == "cuda" else None,
        )
    except dist.DistError as error:
        address = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        raise InfrastructureError(
            f"rank {rank} of {world_size} could not join the others at {address} "
            f"within {timeout_s:g} s: {error}"
        ) from error
    return RankInfo(rank, world_size, local_rank, local_world_size, device)


def lost_a_rank(error: Exception) -> bool:
    """Whether a collective failed because another rank is gone or cannot be reached."""
    if isinstance(error, dist.DistError):
        return True
    # gloo raises plain RuntimeErrors
    return isinstance(error, RuntimeError) and bool(
        re.search(r"gloo|Connection (closed|reset) by peer", str(error))
    )


def shutdown() -> None:
    """Ends the process group, if there is one."""
    if not dist.is_initialized():
        return
    if "deepspeed" in sys.modules:
        from deepspeed import comm

        if comm.is_initialized():
            comm.destroy_process_group()  # also drops the groups DeepSpeed remembers
            return
    dist.destroy_process_group()


def _bind_device(local_rank: int, local_world_size: int) -> torch.device:
    """Returns the CPU, or the GPU of this local rank after making it the current one."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    if local_world_size > torch.cuda.device_count():
        raise UserError(
            f"cluster.processes_per_node = {local_world_size}, but this node has "
            f"{torch.cuda.device_count()} GPUs: at most one process per GPU"
        )
    device = torch.device("cuda", local_rank)
    torch.cuda.set_device(device)
    return device
