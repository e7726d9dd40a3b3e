"""Collectives over 3 ranks, in one launch; run under torchrun this file is the worker."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import torch

from florence.distributed.collectives import (
    all_gather_equal_rows,
    all_gather_rows,
    all_reduce_logsumexp,
    any_rank,
    barrier,
    broadcast_object,
    mean_scalars,
    reduce_scatter_rows,
)
from florence.distributed.setup import init_distributed, shutdown


def test_three_ranks_agree(tmp_path: Path) -> None:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=3"]
    subprocess.run([*launch, __file__, str(tmp_path)], check=True, timeout=120)
    seen = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(3)]

    for rank, result in enumerate(seen):
        assert result["place"] == [rank, 3, rank, 3, "cpu", rank == 0]
        assert result["uneven rows"] == [[1, 1], [2, 2], [2, 2]]
        assert result["equal rows"] == [0, -1, 1, -1, 2, -1]
        assert result["scattered"] == [3 * rank, 0]
        assert result["logsumexp"] == [1000 + math.log(3), -1000 + math.log(3)]
        assert result["object"] == {"best": "step-7"}
        assert result["means"] == {"a": 1.0, "b": 2.5}
        assert result["any"] == [True, False]


def main() -> None:
    ranks = init_distributed(timeout_s=60)
    rank = ranks.rank
    logs = torch.tensor([1000.0, -1000.0], dtype=torch.float64)
    a, b = torch.tensor([rank]), torch.tensor(2.5)
    results = {
        "place": [
            rank,
            ranks.world_size,
            ranks.local_rank,
            ranks.local_world_size,
            str(ranks.device),
            ranks.is_main,
        ],
        "uneven rows": all_gather_rows(torch.full((rank, 2), rank)).tolist(),  # rank 0 has none
        "equal rows": all_gather_equal_rows(torch.tensor([rank, -1])).tolist(),
        "scattered": reduce_scatter_rows(torch.tensor([0, 0, 1, 0, 2, 0])).tolist(),
        "logsumexp": all_reduce_logsumexp(logs).tolist(),
        "object": broadcast_object({"best": "step-7"} if rank == 0 else None),
        "means": mean_scalars({"a": a, "b": b} if rank == 0 else {"b": b, "a": a}),
        "any": [any_rank(rank == 1), any_rank(False)],
    }
    barrier()
    (Path(sys.argv[1]) / f"{rank}.json").write_text(json.dumps(results))
    shutdown()


if __name__ == "__main__":
    main()
