"""What every place that runs jobs can do."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, NamedTuple, Protocol

from florence.launch.manifest import JobManifest
from florence.launch.status import JobState, JobStatus
from florence.util.errors import UserError, nearest

FINISHED = frozenset({JobState.SUCCEEDED, JobState.FAILED})


class LogLine(NamedTuple):
    """One line of one pod, without its newline."""

    pod: str
    line: str


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something that happened to a job or one of its pods."""

    time: datetime | None
    object: str
    """`PyTorchJob NAME` or `Pod NAME`."""
    type: str
    """Normal or Warning."""
    reason: str
    message: str
    count: int


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

    def diff(self, manifest: JobManifest) -> str:
        """Returns how a manifest differs from the job of its name; empty if it does not."""

    def list(self, *, selector: str | None = None) -> Sequence[JobStatus]:
        """Returns every job a label selector matches, the newest first."""

    def status(self, name: str) -> JobStatus:
        """Returns one job; its message says what it waits for."""

    def events(self, name: str) -> Sequence[Event]:
        """Returns what happened to a job and its pods, the oldest first."""

    def logs(
        self,
        name: str,
        *,
        follow: bool = False,
        tail: int | None = None,
        previous: bool = False,
        rank: int | None = None,
    ) -> Iterator[LogLine]:
        """Yields the lines of all pods, of each only the last `tail`.

        With `follow` it goes on, also with pods that start later, until the job is finished.
        `previous` reads the container before the last restart, `rank` one node's pod alone.
        """

    def wait(
        self,
        name: str,
        *,
        states: Collection[JobState] = FINISHED,
        timeout: float | None = None,
    ) -> JobStatus:
        """Waits until the job is in one of `states` or finished; TimeoutError after `timeout` s."""

    def suspend(self, name: str) -> JobStatus:
        """Ends a job's pods and keeps the job, until `resume`."""

    def resume(self, name: str) -> JobStatus:
        """Lets a suspended job run again, from its last checkpoint."""

    def cancel(self, name: str) -> JobStatus:
        """Ends a job's pods with their grace period and returns when they are gone."""

    def delete(self, name: str) -> None:
        """Cancels a job and forgets it."""


def no_such_job(name: str, known: Iterable[str]) -> UserError:
    """Returns the error for a name no job has."""
    return UserError(f"no job named {name!r}{nearest(name, known)}")
