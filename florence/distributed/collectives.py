"""Collectives over tensor rows and scalars that also work in one process without a group.

`group` is the torch process group to act in, None the default one. Nothing here is differentiable.
"""

from __future__ import annotations

from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


def world_size(group: dist.ProcessGroup | None = None) -> int:
    """Returns the number of ranks, 1 without a process group."""
    return dist.get_world_size(group) if dist.is_initialized() else 1


def rank(group: dist.ProcessGroup | None = None) -> int:
    """Returns this process's rank, 0 without a process group."""
    return dist.get_rank(group) if dist.is_initialized() else 0


def is_main() -> bool:
    """True on the one rank that writes, prints and tracks."""
    return rank() == 0


def barrier() -> None:
    """Waits for all ranks."""
    if world_size() > 1:
        dist.barrier()


def broadcast_object(value: T) -> T:
    """Returns rank 0's picklable `value` on every rank."""
    if world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def any_rank(flag: bool) -> bool:
    """True on every rank when `flag` is true on at least one."""
    if world_size() == 1:
        return flag
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    raised = torch.tensor(int(flag), device=device)
    dist.all_reduce(raised, dist.ReduceOp.MAX)
    return bool(raised.item())


def mean_scalars(scalars: dict[str, Tensor]) -> dict[str, float]:
    """Averages one-element tensors over ranks in one collective; every rank passes equal names."""
    if not scalars:
        return {}
    names = sorted(scalars)
    values = torch.stack([scalars[name].detach().double().reshape(()) for name in names])
    if world_size() > 1:
        dist.all_reduce(values)
    return dict(zip(names, (values / world_size()).tolist(), strict=True))


def all_gather_rows(rows: Tensor) -> Tensor:
    """Concatenates `rows` (n_r, ...) of all ranks in rank order; n_r may differ and may be 0."""
    ranks = world_size()
    if ranks == 1:
        return rows
    lengths = all_gather_equal_rows(torch.tensor([len(rows)], device=rows.device)).tolist()
    padded = rows.new_zeros(max(lengths), *rows.shape[1:])
    padded[: len(rows)] = rows
    parts = all_gather_equal_rows(padded).chunk(ranks)
    return torch.cat([part[:length] for part, length in zip(parts, lengths, strict=True)])


def all_gather_equal_rows(rows: Tensor, *, group: dist.ProcessGroup | None = None) -> Tensor:
    """Concatenates `rows` (n, ...) of all ranks in rank order, (n x ranks, ...); n is the same."""
    ranks = world_size(group)
    if ranks == 1:
        return rows
    gathered = rows.new_empty(ranks * len(rows), *rows.shape[1:])
    dist.all_gather_into_tensor(gathered, rows.contiguous(), group=group)
    return gathered


def reduce_scatter_rows(rows: Tensor, *, group: dist.ProcessGroup | None = None) -> Tensor:
    """Sums `rows` (n x ranks, ...) over ranks and returns the n rows this rank owns."""
    ranks = world_size(group)
    if ranks == 1:
        return rows
    own = rows.new_empty(len(rows) // ranks, *rows.shape[1:])
    dist.reduce_scatter_tensor(own, rows.contiguous(), group=group)
    return own


def all_reduce_logsumexp(values: Tensor, *, group: dist.ProcessGroup | None = None) -> Tensor:
    """Returns log(sum over ranks of exp(values)), elementwise and without overflow."""
    if world_size(group) == 1:
        return values
    largest = values.clone()
    dist.all_reduce(largest, dist.ReduceOp.MAX, group=group)
    total = (values - largest).exp()
    dist.all_reduce(total, group=group)
    return total.log_().add_(largest)
