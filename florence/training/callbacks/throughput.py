"""Measures samples per second and the share of time spent waiting for data."""

from __future__ import annotations

import time

from florence.training.trainer import Callback, Trainer


class ThroughputCallback(Callback):
    """Adds `perf/samples_per_s` (all ranks) since the previous logged step to the metrics."""

    def on_start(self, trainer: Trainer) -> None:
        self._mark(trainer)

    def on_step(self, trainer: Trainer, metrics: dict[str, float]) -> None:
        if not metrics:
            return
        seconds = time.perf_counter() - self.since
        metrics["perf/samples_per_s"] = (trainer.state.samples_seen - self.samples) / seconds
        self._mark(trainer)

    def _mark(self, trainer: Trainer) -> None:
        self.since = time.perf_counter()
        self.samples = trainer.state.samples_seen
