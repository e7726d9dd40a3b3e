"""Saves the training state every so many steps and resumes from the newest one."""

from __future__ import annotations

import logging
from pathlib import Path

from florence.distributed.checkpoint import load_checkpoint, save_checkpoint
from florence.tracking.run import TrackedRun
from florence.training.trainer import Callback, Trainer

log = logging.getLogger(__name__)


class CheckpointCallback(Callback):
    """Restores at the start, saves on schedule, at the end and when the job is asked to stop."""

    def __init__(self, folder: Path, *, tracked: TrackedRun | None) -> None:
        self.folder = folder
        self.tracked = tracked
        self.saved_step = 0

    def on_start(self, trainer: Trainer) -> None:
        state = load_checkpoint(trainer.engine, self.folder)
        if state is None:
            return
        trainer.state.load_state_dict(state["progress"])
        trainer.loader.load_state_dict(state["loader"])
        self.saved_step = trainer.state.step
        log.info("resumed from step %d in %s", trainer.state.step, self.folder)

    def on_step(self, trainer: Trainer, metrics: dict[str, float]) -> None:
        if trainer.state.step % trainer.run.training.checkpoint_every == 0:
            self._save(trainer)

    def on_preempted(self, trainer: Trainer) -> None:
        self._save(trainer)

    def on_end(self, trainer: Trainer) -> None:
        self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        step = trainer.state.step
        if step == self.saved_step:
            return
        state = {"progress": trainer.state.state_dict(), "loader": trainer.loader.state_dict()}
        keep = trainer.run.training.keep_checkpoints
        path = save_checkpoint(trainer.engine, self.folder, step=step, state=state, keep=keep)
        self.saved_step = step
        if self.tracked:
            self.tracked.log_checkpoint(path, step=step)
