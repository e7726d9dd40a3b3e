"""Trains ten steps under every setting that must not change the result; prints the losses.

torchrun --nproc-per-node N tests/distributed/train_losses.py DIGITS OUT
"""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path

from florence.config.run import TrainRun
from florence.data.loader import build_train_loader
from florence.distributed.engine import build_engine
from florence.distributed.setup import RankInfo, init_distributed, shutdown
from florence.tasks.build import build_task
from florence.training.optim import build_optimizer
from florence.training.trainer import Callback, Trainer


class Losses(Callback):
    """Keeps the loss of every step, averaged over ranks."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_step(self, trainer: Trainer, metrics: dict[str, float]) -> None:
        self.values.append(metrics["train/loss"])


def train(digits: str, *, ranks: RankInfo, zero_stage: int, chunk_size: int | None) -> list[float]:
    run = TrainRun.model_validate(
        {
            "name": "parity",
            "model": {"preset": "pico"},
            "data": {"train": f"{digits}/train", "num_workers": 0},
            "optim": {"lr": 1e-3, "warmup_steps": 2},
            "parallel": {
                "precision": "fp32",
                "zero_stage": zero_stage,
                "chunk_size": chunk_size,
                "activation_checkpointing": chunk_size is not None,
            },
            "training": {"total_steps": 10, "global_batch_size": 32},
            "cluster": {"nodes": ranks.world_size},
            "tracking": {"log_every": 1},
        }
    )
    task = build_task(run)
    engine = build_engine(task, optimizer=build_optimizer(task, run.optim), run=run)
    losses = Losses()
    loader = build_train_loader(
        run.data,
        tokenizer=task.tokenizer,
        image_size=task.image_size,
        micro_batch_size=run.micro_batch_size,
        seed=run.seed,
    )
    Trainer(engine, loader=loader, run=run, ranks=ranks, callbacks=[losses]).fit()
    engine.destroy()
    return losses.values


def main() -> None:
    digits, out = sys.argv[1:]
    ranks = init_distributed()
    results = {
        f"{ranks.world_size} ranks, ZeRO {stage}, chunks of {chunk}": train(
            digits, ranks=ranks, zero_stage=stage, chunk_size=chunk
        )
        for stage, chunk in itertools.product((0, 1, 2, 3), (None, 5))
    }
    if ranks.is_main:
        Path(out).write_text(json.dumps(results))
    shutdown()


if __name__ == "__main__":
    main()
