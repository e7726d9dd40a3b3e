"""The training loop: one for every task, scheduled by step, exact on resume.

Everything that depends on history is either in the checkpoint (weights, optimizer, loader
position, counters) or a function of the step (learning rate, random seed). A run that was killed
and resumed therefore ends with the same weights, bit for bit.
"""

from __future__ import annotations

import math
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from florence.config.run import TrainRun
from florence.data.loader import TrainLoader
from florence.distributed.collectives import any_rank, mean_scalars
from florence.distributed.engine import Engine
from florence.distributed.setup import RankInfo
from florence.tasks.base import Task, to_device
from florence.training.schedule import learning_rate
from florence.training.state import TrainState
from florence.util.errors import PreemptedError, UserError


class Callback:
    """One concern around the training step; every hook runs on every rank."""

    def on_start(self, trainer: Trainer) -> None:
        """Before the first step of this process."""

    def on_step(self, trainer: Trainer, metrics: dict[str, float]) -> None:
        """After every step; `metrics` is empty unless the step is logged, and may be added to."""

    def on_preempted(self, trainer: Trainer) -> None:
        """After the last step of a job that was asked to stop."""

    def on_end(self, trainer: Trainer) -> None:
        """After the last step of the run."""


class Trainer:
    """Runs `run.training.total_steps` optimizer steps of an engine over a loader.

    Metrics are reduced over ranks every `run.tracking.log_every` steps; callbacks see every step.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        loader: TrainLoader,
        run: TrainRun,
        ranks: RankInfo,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        self.engine = engine
        self.loader = loader
        self.run = run
        self.ranks = ranks
        self.callbacks = callbacks
        self.state = TrainState()
        self.preempted = False

    @property
    def task(self) -> Task[Any]:
        """The module inside the engine."""
        return self.engine.module

    def fit(self) -> None:
        """Trains to the last step; PreemptedError after SIGTERM, when the state is saved."""
        for callback in self.callbacks:
            callback.on_start(self)
        batches = iter(self.loader)
        with self._noting_sigterm():
            while self.state.step < self.run.training.total_steps:
                self._step(next(batches))
                if any_rank(self.preempted):
                    self._stop_early()
        for callback in self.callbacks:
            callback.on_end(self)

    def _step(self, batch: dict[str, torch.Tensor]) -> None:
        step = self.state.step + 1
        rate = learning_rate(self.run.optim, step=step, total_steps=self.run.training.total_steps)
        for group in self.engine.optimizer.param_groups:
            group["lr"] = rate
        torch.manual_seed(self._seed(step))
        self.engine.train()

        batch = to_device(batch, self.ranks.device)
        outputs = self.engine(batch)
        losses = self.task.loss(outputs, batch)
        self.engine.backward(losses["loss"])
        self.engine.step()

        self.state.step = step
        self.state.samples_seen += self.run.training.global_batch_size
        metrics = self._metrics(losses, rate=rate) if self._logs(step) else {}
        for callback in self.callbacks:
            callback.on_step(self, metrics)

    def _logs(self, step: int) -> bool:
        ends = (1, self.run.training.total_steps)
        return step % self.run.tracking.log_every == 0 or step in ends

    def _metrics(self, losses: dict[str, torch.Tensor], *, rate: float) -> dict[str, float]:
        metrics = {f"train/{name}": value for name, value in mean_scalars(losses).items()}
        if not all(map(math.isfinite, metrics.values())):
            raise UserError(
                f"training diverged at step {self.state.step}: {metrics}; "
                f"lower optim.lr ({self.run.optim.lr}) or raise optim.warmup_steps "
                f"({self.run.optim.warmup_steps})"
            )
        self.state.loss = metrics["train/loss"]
        metrics["train/lr"] = rate
        grad_norm = self.engine.get_global_grad_norm()
        if grad_norm is not None:  # at ZeRO 0 in fp32 DeepSpeed clips without keeping the norm
            metrics["train/grad_norm"] = float(grad_norm)
        metrics["train/samples_seen"] = float(self.state.samples_seen)
        return metrics

    def _seed(self, step: int) -> int:
        """Differs for every seed, step and rank, and needs nothing but them."""
        return (self.run.seed * 1_000_003 + step) * 65_537 + self.ranks.rank

    @contextmanager
    def _noting_sigterm(self) -> Iterator[None]:
        def note(*_: object) -> None:
            self.preempted = True

        before = signal.signal(signal.SIGTERM, note)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)

    def _stop_early(self) -> None:
        for callback in self.callbacks:
            callback.on_preempted(self)
        raise PreemptedError(f"stopped by SIGTERM after step {self.state.step}; the state is saved")
