"""Evaluates the model during and after training."""

from __future__ import annotations

from florence.evaluation.build import evaluate_all
from florence.tracking.run import TrackedRun
from florence.training.trainer import Callback, Trainer


class EvaluateCallback(Callback):
    """Runs the run's evaluations on schedule and at the end; `figures` holds the last ones."""

    def __init__(self, *, tracked: TrackedRun | None) -> None:
        self.tracked = tracked
        self.figures: dict[str, float] = {}

    def on_step(self, trainer: Trainer, metrics: dict[str, float]) -> None:
        training, step = trainer.run.training, trainer.state.step
        every = training.evaluate_every
        if every and step % every == 0 and step < training.total_steps:
            self._evaluate(trainer)

    def on_end(self, trainer: Trainer) -> None:
        self._evaluate(trainer)

    def _evaluate(self, trainer: Trainer) -> None:
        self.figures = evaluate_all(
            trainer.task,
            trainer.run.evaluation,
            ranks=trainer.ranks,
            tracked=self.tracked,
            step=trainer.state.step,
        )
