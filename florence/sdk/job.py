"""A handle on one job, wherever it runs."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from florence.launch.backend import FINISHED, Backend, LogLine
from florence.launch.status import JobState, JobStatus


class Job:
    """One job of a backend; every method raises UserError once the job is deleted."""

    def __init__(self, name: str, *, backend: Backend, folder: Path) -> None:
        self.name = name
        self._backend = backend
        self._folder = folder

    def __repr__(self) -> str:
        return f"Job({self.name!r})"

    def status(self) -> JobStatus:
        """Returns the job's state and pods."""
        return self._backend.status(self.name)

    def logs(self, *, follow: bool = False, tail: int | None = None) -> Iterator[LogLine]:
        """Yields the lines of all pods; with `follow` until the job is finished."""
        return self._backend.logs(self.name, follow=follow, tail=tail)

    def wait(
        self, *, states: Collection[JobState] = FINISHED, timeout: float | None = None
    ) -> JobStatus:
        """Waits for one of `states` or the job's end; TimeoutError after `timeout` seconds."""
        return self._backend.wait(self.name, states=states, timeout=timeout)

    def cancel(self) -> JobStatus:
        """Ends the job's pods and returns when they are gone; its checkpoints stay."""
        return self._backend.cancel(self.name)

    def summary(self) -> dict[str, Any] | None:
        """Returns the figures of a succeeded job; None if there are none or not on this machine."""
        path = self._folder / "summary.json"
        if not path.is_file():
            return None
        summary: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return summary
