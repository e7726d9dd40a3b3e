"""What an evaluation is: a task in, named figures and pictures out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from matplotlib.figure import Figure

from florence.distributed.setup import RankInfo
from florence.tasks.base import Task


@dataclass(frozen=True)
class EvaluationResult:
    """Figures of one evaluation, equal on every rank; pictures on rank 0 only."""

    name: str
    """`<dataset>_<evaluation>`, the middle part of `eval/<name>/<metric>`."""
    metrics: dict[str, float]
    figures: dict[str, Figure] = field(default_factory=dict)


class Evaluator(Protocol):
    """Evaluates a task on a dataset with all ranks."""

    def evaluate(self, task: Task[Any], *, ranks: RankInfo) -> EvaluationResult:
        """Returns the same figures on any number of ranks; leaves the task in eval mode."""
