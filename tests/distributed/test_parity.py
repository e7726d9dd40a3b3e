"""Gradient cache, ZeRO stage and number of ranks change memory and speed, never the losses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("train_losses.py")


@pytest.mark.timeout(400)
def test_losses_are_equal_under_every_setting(digits: Path, tmp_path: Path) -> None:
    losses: dict[str, list[float]] = {}
    for ranks in (1, 2):
        out = tmp_path / f"{ranks}.json"
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        subprocess.run(
            [*launch, f"--nproc-per-node={ranks}", str(SCRIPT), str(digits), str(out)], check=True
        )
        losses |= json.loads(out.read_text())
    assert len(losses) == 16
    reference = losses["1 ranks, ZeRO 0, chunks of None"]
    assert len(reference) == 10
    assert reference[-1] < reference[0]  # it learns, so the losses do depend on the gradients
    for setting, values in losses.items():
        assert values == pytest.approx(reference, abs=1e-5), setting
