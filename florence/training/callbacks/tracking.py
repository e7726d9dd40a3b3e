"""Sends the metrics of logged steps to MLflow, from rank 0."""

from __future__ import annotations

from florence.tracking.run import TrackedRun
from florence.training.trainer import Callback, Trainer


class TrackingCallback(Callback):
    """Logs what the callbacks before it have put into the metrics."""

    def __init__(self, tracked: TrackedRun) -> None:
        self.tracked = tracked

    def on_step(self, trainer: Trainer, metrics: dict[str, float]) -> None:
        if metrics:
            self.tracked.log_metrics(metrics, step=trainer.state.step)
