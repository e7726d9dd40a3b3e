"""A handle on one job, wherever it runs."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from florence.launch.backend import FINISHED, Backend, Event, LogLine
from florence.launch.status import JobState, JobStatus

if TYPE_CHECKING:
    from florence.tracking.progress import Progress


class Job:
    """One job of a backend; every method raises UserError once the job is deleted."""

    def __init__(
        self, name: str, *, backend: Backend, folder: Path, tracking_uri: str, options: str = ""
    ) -> None:
        """`options`: what a `florence jobs` command needs after the name to find the job."""
        self.name = name
        self.reference = f"{name}{options}"
        self._backend = backend
        self._folder = folder
        self._tracking_uri = tracking_uri

    def __repr__(self) -> str:
        return f"Job({self.name!r})"

    def status(self) -> JobStatus:
        """Returns the job's state and pods."""
        return self._backend.status(self.name)

    def progress(self) -> Progress | None:
        """Returns how far training has come, by what it has recorded in MLflow; None if nothing."""
        file = self._tracking_uri.removeprefix("sqlite:///")
        if file != self._tracking_uri and not Path(file).exists():
            return None
        from florence.tracking.progress import read_progress  # imports mlflow, which takes seconds

        return read_progress(self._tracking_uri, self.name)

    def events(self) -> Sequence[Event]:
        """Returns what happened to the job and its pods, the oldest first."""
        return self._backend.events(self.name)

    def logs(
        self,
        *,
        follow: bool = False,
        tail: int | None = None,
        previous: bool = False,
        rank: int | None = None,
    ) -> Iterator[LogLine]:
        """Yields the lines of all pods; with `follow` until the job is finished.

        `previous` reads the containers before their last restart, `rank` one node's pod alone.
        """
        return self._backend.logs(self.name, follow=follow, tail=tail, previous=previous, rank=rank)

    def wait(
        self, *, states: Collection[JobState] = FINISHED, timeout: float | None = None
    ) -> JobStatus:
        """Waits for one of `states` or the job's end; TimeoutError after `timeout` seconds."""
        return self._backend.wait(self.name, states=states, timeout=timeout)

    def suspend(self) -> JobStatus:
        """Ends the job's pods and keeps the job, until `resume`."""
        return self._backend.suspend(self.name)

    def resume(self) -> JobStatus:
        """Lets a suspended job run again, from its last checkpoint."""
        return self._backend.resume(self.name)

    def cancel(self) -> JobStatus:
        """Ends the job's pods and returns when they are gone; its checkpoints stay."""
        return self._backend.cancel(self.name)

    def delete(self) -> None:
        """Cancels the job and forgets it; on this machine its checkpoints and results go too."""
        self._backend.delete(self.name)

    def summary(self) -> dict[str, Any] | None:
        """Returns the figures of a succeeded job; None if there are none or not on this machine."""
        path = self._folder / "summary.json"
        if not path.is_file():
            return None
        summary: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return summary
