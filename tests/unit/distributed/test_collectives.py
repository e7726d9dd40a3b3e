"""In one process without a group, every collective is the identity."""

from __future__ import annotations

import torch

from florence.distributed import collectives


def test_no_group_means_one_rank() -> None:
    rows = torch.arange(6.0).reshape(3, 2)
    assert (collectives.rank(), collectives.world_size()) == (0, 1)
    assert collectives.is_main()
    collectives.barrier()
    assert collectives.broadcast_object("x") == "x"
    assert collectives.any_rank(True)
    assert not collectives.any_rank(False)
    assert collectives.mean_scalars({}) == {}
    assert collectives.mean_scalars({"loss": torch.tensor([0.5])}) == {"loss": 0.5}
    for same in (
        collectives.all_gather_rows,
        collectives.all_gather_equal_rows,
        collectives.reduce_scatter_rows,
        collectives.all_reduce_logsumexp,
    ):
        assert torch.equal(same(rows), rows)
