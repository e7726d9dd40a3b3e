"""UniCL over 1, 2 and 3 ranks equals one process with the whole batch, in one launch.

Run under torchrun this file is the worker: it trains linear towers one step and writes, for every
case, how far averaged losses and gradients are, relatively, from those of the global batch.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from florence.distributed.setup import init_distributed, shutdown
from florence.objectives.unicl import unicl_loss

INT64 = torch.iinfo(torch.int64)
PER_RANK = 5
GROUPS = {"3 ranks": None, "ranks 1 and 2": [1, 2], "a rank alone": [2]}
LABELS = {
    "across ranks": torch.tensor([0, 1, 1, 2, 3, 3, 0, 4, 4, 4, 5, 1, 0, 6, 2]),
    "64-bit keys": torch.tensor([INT64.max - i % 4 for i in range(14)] + [INT64.min]),
    "all equal": torch.full((15,), 7),
    "all unique": torch.arange(15),
}
DTYPES = {"float32": torch.float32, "float64": torch.float64}
TOLERANCE = {"float32": 1e-6, "float64": 1e-12}
CASES = [f"{g}, {y}, {d}" for g in GROUPS for y in LABELS for d in DTYPES]


@pytest.fixture(scope="module")
def errors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, float]]:
    out = tmp_path_factory.mktemp("ranks") / "errors.json"
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=3"]
    subprocess.run([*launch, __file__, str(out)], check=True, timeout=120)
    return json.loads(out.read_text())


@pytest.mark.parametrize("case", CASES)
def test_averaged_over_ranks_equals_the_global_batch(
    errors: dict[str, dict[str, float]], case: str
) -> None:
    assert errors[case].keys() == {"loss", "image tower", "text tower", "logit scale"}
    for name, error in errors[case].items():
        assert error <= TOLERANCE[case.split(", ")[-1]], name


def relative_error(value: Tensor, expected: Tensor) -> float:
    return ((value - expected).abs().max() / expected.abs().max().clamp(min=1)).item()


def step(
    rows: slice, labels: Tensor, *, dtype: torch.dtype, group: dist.ProcessGroup
) -> dict[str, Tensor]:
    """Returns the loss of these rows of the batch and the gradients of the towers' parameters."""
    generator = torch.Generator().manual_seed(0)
    inputs, weights = torch.randn(2, 2, 15, 15, generator=generator, dtype=torch.float64).to(dtype)
    image_tower, text_tower = (w[:, :8].clone().requires_grad_() for w in weights)
    logit_scale = torch.tensor([3.0], dtype=dtype, requires_grad=True)
    loss = unicl_loss(
        F.normalize(inputs[0, rows] @ image_tower, dim=1),
        F.normalize(inputs[1, rows] @ text_tower, dim=1),
        labels[rows],
        logit_scale.exp(),
        group=group,
        tile=4,
    )
    loss.backward()
    return {
        "loss": loss.detach(),
        "image tower": image_tower.grad,
        "text tower": text_tower.grad,
        "logit scale": logit_scale.grad,
    }


def main() -> None:
    ranks = init_distributed(timeout_s=60)
    alone = [dist.new_group([r]) for r in range(3)][ranks.rank]
    errors = {}
    for group_name, members in GROUPS.items():
        group = dist.new_group(members)
        members = members or [0, 1, 2]
        if ranks.rank not in members:
            continue
        first = members.index(ranks.rank) * PER_RANK
        for label_name, labels in LABELS.items():
            for dtype_name, dtype in DTYPES.items():
                own = slice(first, first + PER_RANK)
                results = step(own, labels, dtype=dtype, group=group)
                whole = slice(0, len(members) * PER_RANK)
                expected = step(whole, labels, dtype=dtype, group=alone)
                for value in results.values():
                    dist.all_reduce(value, group=group)
                errors[f"{group_name}, {label_name}, {dtype_name}"] = {
                    name: relative_error(value / len(members), expected[name])
                    for name, value in results.items()
                }
    if ranks.rank == 2:  # in every group
        Path(sys.argv[1]).write_text(json.dumps(errors))
    shutdown()


if __name__ == "__main__":
    main()
