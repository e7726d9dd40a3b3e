"""The part of a run's progress that is not weights."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any


@dataclass
class TrainState:
    """Counters of a run; saved with every checkpoint."""

    step: int = 0
    """Optimizer steps done."""
    samples_seen: int = 0
    """Samples trained on, over all ranks."""
    loss: float = math.nan
    """At the last logged step, averaged over ranks."""

    def state_dict(self) -> dict[str, float]:
        """Returns the counters as plain numbers."""
        return asdict(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores the counters."""
        self.step, self.samples_seen, self.loss = (
            state["step"],
            state["samples_seen"],
            state["loss"],
        )
