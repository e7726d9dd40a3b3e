"""The directory of a local job: all that is known of it, readable from any process.

    manifest.yaml    what was submitted
    status.json      the job object, its pods and restarts; written atomically by the supervisor
    logs/POD.log     what the pod's processes printed; logs.1, logs.2, ... of earlier attempts
    volumes/POD/     its mounted ConfigMaps and scratch folders
    supervisor.log   empty unless the supervisor itself failed
    supervisor.lock  held by the supervisor while it lives; the kernel lets go, however it ends
    cancel           there when the job has been asked to end

The job itself adds its checkpoints/ and summary.json.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from florence.launch.manifest import Manifest
from florence.launch.status import JobState, JobStatus, PodStatus, job_status

SUPERVISOR_LOST = "SupervisorLost"


@dataclass(frozen=True)
class Record:
    """What status.json holds."""

    job: Manifest
    pods: tuple[PodStatus, ...] = ()
    restarts: int = 0


class JobDirectory:
    """Reads and writes the files of one job."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.manifest = path / "manifest.yaml"
        self.logs = path / "logs"
        self.supervisor_log = path / "supervisor.log"
        self.cancel_request = path / "cancel"
        self._status = path / "status.json"
        self._lock = path / "supervisor.lock"

    def log(self, pod: str) -> Path:
        """Returns the log file of a pod."""
        return self.logs / f"{pod}.log"

    def exists(self) -> bool:
        """Whether a job was ever submitted here."""
        return self._status.exists()

    def read(self) -> Record:
        """Returns the last record written."""
        data = json.loads(self._status.read_text())
        pods = tuple(PodStatus(**pod) for pod in data["pods"])
        return Record(data["job"], pods, data["restarts"])

    def write(self, record: Record) -> None:
        """Replaces the record; a reader sees the old one or the new one."""
        data = {
            "job": record.job,
            "pods": [dataclasses.asdict(pod) for pod in record.pods],
            "restarts": record.restarts,
        }
        scratch = self._status.with_suffix(".tmp")
        scratch.write_text(json.dumps(data, indent=1))
        scratch.replace(self._status)

    def status(self) -> JobStatus:
        """Returns the job's status, which tells of a supervisor that is gone."""
        live = self.is_live()  # before reading: the supervisor writes its last word, then ends
        record = self.read()
        status = job_status(record.job, record.pods, restarts=record.restarts)
        if live or status.state.is_finished:
            return status
        return dataclasses.replace(
            status,
            state=JobState.FAILED,
            reason=SUPERVISOR_LOST,
            message="the job's supervisor is gone (killed, or this machine was restarted); "
            "submit the job again: it continues from its last checkpoint",
        )

    def is_live(self) -> bool:
        """Whether a supervisor is at work."""
        try:
            with self._lock.open() as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False

    @contextlib.contextmanager
    def supervisor_lock(self) -> Iterator[int]:
        """Takes the lock; a process that inherits the descriptor yielded keeps it."""
        with self._lock.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield file.fileno()

    def begin_attempt(self) -> None:
        """Puts the logs of an earlier attempt aside; checkpoints stay."""
        self.path.mkdir(parents=True, exist_ok=True)
        self.cancel_request.unlink(missing_ok=True)
        if self.logs.exists():
            attempt = 1 + len(list(self.path.glob("logs.*")))
            self.logs.rename(self.path / f"logs.{attempt}")
        self.logs.mkdir()

    def clear(self) -> None:
        """Deletes everything, the job's checkpoints and results too."""
        shutil.rmtree(self.path, ignore_errors=True)


@contextlib.contextmanager
def submit_lock(runs_dir: Path) -> Iterator[None]:
    """Lets one process at a time start or delete jobs under `runs_dir`."""
    runs_dir.mkdir(parents=True, exist_ok=True)
    with (runs_dir / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def link_newest(directory: Path, name: str) -> None:
    """Points the symlink `name` beside a job's directory at it; a real folder is left alone."""
    link = directory.parent / name
    if link.exists() and not link.is_symlink():
        return
    scratch = directory.parent / f".{name}.{os.getpid()}"
    scratch.symlink_to(directory.name)
    scratch.replace(link)
