"""What every place that runs jobs can do."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Literal, NamedTuple, Protocol

from florence.launch.manifest import JobManifest
from florence.launch.status import JobState, JobStatus
from florence.util.errors import UserError, nearest

FINISHED = frozenset({JobState.SUCCEEDED, JobState.FAILED})


class LogLine(NamedTuple):
    """One line of one pod, without its newline."""

    pod: str
    line: str


class Submission(NamedTuple):
    """What a submit did: `live` and `done` jobs are returned as they are, nothing was started."""

    status: JobStatus
    outcome: Literal["started", "resumed", "live", "done"]


class Backend(Protocol):
    """Runs PyTorchJob manifests; a job is known by its name.

    Every method that takes a name raises UserError for one that does not exist.
    """

    def submit(self, manifest: JobManifest, *, rerun: bool = False) -> Submission:
        """Starts a job unless it runs or has succeeded; `rerun` forgets it first.

        A failed job is started again and continues from its last checkpoint.
        """

    def list(self) -> tuple[JobStatus, ...]:
        """Returns every job, the newest first."""

    def status(self, name: str) -> JobStatus:
        """Returns one job."""

    def logs(
        self, name: str, *, follow: bool = False, tail: int | None = None
    ) -> Iterator[LogLine]:
        """Yields the lines of all pods, of each only the last `tail`.

        With `follow` it goes on, also with pods that start later, until the job is finished.
        """

    def wait(
        self,
        name: str,
        *,
        states: Collection[JobState] = FINISHED,
        timeout: float | None = None,
    ) -> JobStatus:
        """Waits until the job is in one of `states` or finished; TimeoutError after `timeout` s."""

    def cancel(self, name: str) -> JobStatus:
        """Ends a job's pods with their grace period and returns when they are gone."""

    def delete(self, name: str) -> None:
        """Cancels a job and forgets it."""


def no_such_job(name: str, known: Iterable[str]) -> UserError:
    """Returns the error for a name no job has."""
    return UserError(f"no job named {name!r}{nearest(name, known)}")
