"""The local backend: runs the manifest Kubernetes would get as processes of this machine (Linux).

Each job has a daemon (`local_supervisor`) and a directory (`local_state`); this module starts the
one and reads the other, so any process can list, follow and cancel. It signals no process id: a
request to end is a file, and what an earlier attempt left behind is known by a mark in its
environment. Jobs share the machine's GPUs unscheduled.
"""

from __future__ import annotations

import subprocess
import sys
import time
import uuid
from collections.abc import Collection, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from florence.launch.backend import FINISHED, Event, LogLine, Submission, no_such_job
from florence.launch.local_logs import follow_logs, read_logs
from florence.launch.local_pod import MARK, LocalPods
from florence.launch.local_state import JobDirectory, Record, link_newest, submit_lock
from florence.launch.manifest import (
    JobManifest,
    Manifest,
    apply_defaults,
    replicas,
    to_yaml,
    validate,
)
from florence.launch.operator import created_status
from florence.launch.pods import pod_name
from florence.launch.status import LABEL_RUN, JobState, JobStatus, format_time
from florence.util.errors import InfrastructureError, UserError
from florence.util.process import end_marked

_POLL_SECONDS = 0.1


class LocalBackend:
    """Runs jobs under `runs_dir/<job name>`; `runs_dir/<run name>` links to the newest of a run.

    Implements `backend.Backend`; a name may be a job's or a run's.
    """

    def __init__(self, runs_dir: str | Path = "runs") -> None:
        self._runs_dir = Path(runs_dir).absolute()

    def submit(self, manifest: JobManifest, *, rerun: bool = False) -> Submission:
        """Starts a job; raises UserError for a manifest that cannot run on this machine."""
        validate(manifest.job)
        job = _as_created(manifest.job)
        directory = JobDirectory(self._runs_dir / job["metadata"]["name"])
        LocalPods(manifest._replace(job=job), directory.path).check()
        with submit_lock(self._runs_dir):
            resumes = directory.exists() and not rerun
            if resumes:
                status = directory.status()
                if status.state == JobState.SUCCEEDED:
                    return Submission(status, "done")
                if not status.state.is_finished:
                    return Submission(status, "live")
            _end(directory)
            if rerun:
                directory.clear()
            _start(directory, manifest, job)
            if run := (job["metadata"].get("labels") or {}).get(LABEL_RUN):
                link_newest(directory.path, run)
        return Submission(directory.status(), "resumed" if resumes else "started")

    def diff(self, manifest: JobManifest) -> str:
        """Returns nothing: here a job is what it was submitted as, under a name that says so."""
        return ""

    def list(self, *, selector: str | None = None) -> Sequence[JobStatus]:
        """Returns every job, the newest first."""
        if selector is not None:
            raise _only_on_kubernetes("a selector")
        jobs = [JobDirectory(self._runs_dir / name).status() for name in self._names()]
        oldest = datetime.min.replace(tzinfo=UTC)
        return tuple(sorted(jobs, key=lambda job: job.created or oldest, reverse=True))

    def status(self, name: str) -> JobStatus:
        """Returns one job; one whose supervisor was killed is Failed, SupervisorLost."""
        return self._directory(name).status()

    def events(self, name: str) -> Sequence[Event]:
        """Raises UserError: nothing is recorded but the status and the logs."""
        raise _only_on_kubernetes("events")

    def logs(
        self,
        name: str,
        *,
        follow: bool = False,
        tail: int | None = None,
        previous: bool = False,
        rank: int | None = None,
    ) -> Iterator[LogLine]:
        """Yields the lines of all pods; with `follow` until the job is finished."""
        if previous:  # a restart goes on in the same file
            raise _only_on_kubernetes("previous")
        directory = self._directory(name)
        lines = follow_logs(directory, tail) if follow else read_logs(directory, tail)
        if rank is None:
            return lines
        pod = _pod_of_rank(directory.read().job, rank)
        return (line for line in lines if line.pod == pod)

    def wait(
        self,
        name: str,
        *,
        states: Collection[JobState] = FINISHED,
        timeout: float | None = None,
    ) -> JobStatus:
        """Waits for one of `states`, or the job's end; TimeoutError after `timeout` seconds."""
        directory = self._directory(name)
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            status = directory.status()
            if status.state in states or status.state.is_finished:
                return status
            left = _POLL_SECONDS if deadline is None else deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"job {status.name} is still {status.state} after {timeout} s")
            time.sleep(min(left, _POLL_SECONDS))

    def suspend(self, name: str) -> JobStatus:
        """Raises UserError: cancel and submit do the same here."""
        raise _only_on_kubernetes("suspend")

    def resume(self, name: str) -> JobStatus:
        """Raises UserError, as `suspend`."""
        raise _only_on_kubernetes("resume")

    def cancel(self, name: str) -> JobStatus:
        """Ends a job's processes, SIGTERM first; it stays listed as Failed, Cancelled."""
        directory = self._directory(name)
        _end(directory)
        return directory.status()

    def delete(self, name: str) -> None:
        """Cancels a job and deletes its directory, checkpoints and results included."""
        directory = self._directory(name)
        with submit_lock(self._runs_dir):
            _end(directory)
            directory.clear()
        for link in self._runs_dir.iterdir():
            if link.is_symlink() and not link.exists():
                link.unlink()

    def _names(self) -> Iterator[str]:
        paths = self._runs_dir.iterdir() if self._runs_dir.exists() else iter(())
        return (p.name for p in paths if not p.is_symlink() and JobDirectory(p).exists())

    def _directory(self, name: str) -> JobDirectory:
        directory = JobDirectory((self._runs_dir / name).resolve())
        if directory.path.parent != self._runs_dir.resolve() or not directory.exists():
            raise no_such_job(name, self._names())
        return directory


def _only_on_kubernetes(what: str) -> UserError:
    return UserError(
        f"{what}: only on the kubernetes backend; here, `florence jobs logs NAME` has everything a "
        "job said, and one that is cancelled and submitted again continues from its checkpoint"
    )


def _pod_of_rank(job: Manifest, rank: int) -> str:
    kinds = [(kind, i) for kind, replica in replicas(job) for i in range(replica["replicas"])]
    if not 0 <= rank < len(kinds):
        raise UserError(f"rank = {rank}; the job has 0 to {len(kinds) - 1}")
    return pod_name(job["metadata"]["name"], *kinds[rank])


def _as_created(job: Manifest) -> Manifest:
    """Returns the job as an API server and the operator would have it right after its creation."""
    now = datetime.now(UTC)
    job = apply_defaults(job)
    job["metadata"] = {
        "namespace": "default",
        **job["metadata"],
        "uid": str(uuid.uuid4()),
        "creationTimestamp": format_time(now),
    }
    job["status"] = created_status(job["metadata"]["name"], now)
    return job


def _start(directory: JobDirectory, manifest: JobManifest, job: Manifest) -> None:
    directory.begin_attempt()
    directory.manifest.write_text(to_yaml(manifest.documents))
    module = [sys.executable, "-m", "florence.launch.local_supervisor", str(directory.path)]
    with directory.supervisor_lock() as lock, directory.supervisor_log.open("wb") as log:
        directory.write(Record(job))
        started = subprocess.run(
            [*module, str(lock)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            pass_fds=[lock],
            check=False,
        )
    if started.returncode:
        raise InfrastructureError(f"the job's supervisor did not start: {directory.supervisor_log}")


def _end(directory: JobDirectory) -> None:
    """Ends what runs of a job: its supervisor with grace, or what a lost supervisor left."""
    if directory.is_live():
        directory.cancel_request.touch()
        while directory.is_live():
            time.sleep(_POLL_SECONDS)
    end_marked(MARK, f"{directory.path}/")
