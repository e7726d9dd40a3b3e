"""Shows a progress bar on a terminal and plain lines elsewhere, on rank 0."""

from __future__ import annotations

import logging
import sys
from datetime import timedelta

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from florence.training.trainer import Callback, Trainer

log = logging.getLogger(__name__)


class ProgressCallback(Callback):
    """Reports step, loss, samples/s and time left at every logged step."""

    def on_start(self, trainer: Trainer) -> None:
        self.bar: Progress | None = None
        if sys.stderr.isatty():
            self.bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
            )
            total = trainer.run.training.total_steps
            self.row = self.bar.add_task("train", total=total, completed=trainer.state.step)
            self.bar.start()

    def on_step(self, trainer: Trainer, metrics: dict[str, float]) -> None:
        if self.bar is not None:
            self.bar.update(self.row, completed=trainer.state.step)
        if not metrics:
            return
        rate = metrics["perf/samples_per_s"]
        text = f"loss {metrics['train/loss']:.4f}  {rate:.0f} samples/s"
        if self.bar is not None:
            self.bar.update(self.row, description=text)
            return
        training = trainer.run.training
        left = (training.total_steps - trainer.state.step) * training.global_batch_size / rate
        eta = timedelta(seconds=round(left))
        log.info("step %d/%d  %s  ETA %s", trainer.state.step, training.total_steps, text, eta)

    def on_preempted(self, trainer: Trainer) -> None:
        self.on_end(trainer)

    def on_end(self, trainer: Trainer) -> None:
        if self.bar is not None:
            self.bar.stop()
