"""Runs the evaluations a run lists and records what they found."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from typing import Any

from florence.config.evaluation import AnyEvaluation
from florence.distributed.setup import RankInfo
from florence.evaluation.base import EvaluationResult, Evaluator
from florence.evaluation.zero_shot import ZeroShotEvaluator
from florence.tasks.base import Task
from florence.tracking.run import TrackedRun

log = logging.getLogger(__name__)


def build_evaluator(cfg: AnyEvaluation) -> Evaluator:
    """Returns the evaluator of one entry of a run's `evaluation` list."""
    return ZeroShotEvaluator(cfg)


def evaluate_all(
    task: Task[Any],
    cfgs: Sequence[AnyEvaluation],
    *,
    ranks: RankInfo,
    tracked: TrackedRun | None,
    step: int,
) -> dict[str, float]:
    """Runs the listed evaluations on all ranks and returns their figures for the summary.

    A figure is called `<evaluation>_<metric>`, or `<dataset>_<evaluation>_<metric>` when the list
    has several evaluations of that kind.
    """
    kinds = Counter(cfg.name for cfg in cfgs)
    figures = {}
    for cfg in cfgs:
        result = build_evaluator(cfg).evaluate(task, ranks=ranks)
        prefix = cfg.name if kinds[cfg.name] == 1 else result.name
        figures |= {f"{prefix}_{metric}": value for metric, value in result.metrics.items()}
        if tracked:
            _record(tracked, result, step=step)
    return figures


def _record(tracked: TrackedRun, result: EvaluationResult, *, step: int) -> None:
    folder = f"eval/{result.name}"
    tracked.log_metrics(
        {f"{folder}/{metric}": value for metric, value in result.metrics.items()}, step=step
    )
    for name, figure in result.figures.items():
        tracked.log_figure(figure, f"{folder}/{name}.png")
    shown = "  ".join(f"{metric} {value:.4f}" for metric, value in result.metrics.items())
    log.info("step %d  %s  %s", step, result.name, shown)
