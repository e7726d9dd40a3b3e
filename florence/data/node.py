"""What the ranks of one node share while they stream: a number nobody else has, and a cache.

Streaming 0.13.0 takes the first free number for its shared memory and lock files. Two jobs that
start together, or two nodes of a job on one machine, find the same one and collide; and what a
killed job leaves behind is never removed. Here the number is random and guarded by a lock that the
kernel drops with the last process that holds it, so what belongs to the dead can be told.
"""

from __future__ import annotations

import fcntl
import itertools
import secrets
from collections.abc import Callable
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from tempfile import gettempdir
from typing import IO, Any, TypeVar

import streaming.base.dataset
from streaming.base.constant import BARRIER_FILELOCK, CACHE_FILELOCK, SHM_TO_CLEAN
from streaming.base.distributed import all_gather_object
from streaming.base.shared.prefix import _get_path
from streaming.base.world import World

T = TypeVar("T")

LOCK_NAME = "florence-stream-{}.lock"


def lease_number(*_: Any, **__: Any) -> tuple[int, NumberLease]:
    """Stands in for Streaming's `get_shm_prefix`."""
    lease = NumberLease()
    return lease.number, lease


streaming.base.dataset.get_shm_prefix = lease_number


class NumberLease:
    """A number that is equal on the ranks of a node and nowhere else, until it is collected.

    Forked loader workers keep it as well; a process that is killed does not.
    """

    def __init__(self) -> None:
        self._lock: IO[str] | None = None
        self.buf = bytearray(4)  # a data set writes here when it is deleted
        self.number = on_node_leader(self._take)

    def _take(self) -> int:
        remove_stale()
        number = secrets.randbits(48)
        self._lock = _create_locked(Path(gettempdir()) / LOCK_NAME.format(number))
        return number


class NodeCache:
    """A folder for the shards of one node: `root`/0, `root`/1, ..., the first that is not in use.

    A node that starts again finds the shards it had; two nodes on a machine do not meet.
    """

    def __init__(self, root: Path) -> None:
        self._lock: IO[str] | None = None
        self.folder = on_node_leader(lambda: self._claim(root))

    def _claim(self, root: Path) -> Path:
        for index in itertools.count():
            folder = root / str(index)
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = _try_lock(folder / ".lock")
            if self._lock is not None:
                break
        return folder


def on_node_leader(make: Callable[[], T]) -> T:
    """Calls `make` on the first rank of every node and returns its result on all ranks of it."""
    world = World.detect()
    results = all_gather_object(make() if world.is_local_leader else None)
    return results[world.rank - world.rank_of_node]


def remove_stale() -> None:
    """Removes the shared memory and lock files of numbers that no living process keeps."""
    folder = Path(gettempdir())
    for path in folder.glob(LOCK_NAME.format("*")):
        lock = _try_lock(path)
        if lock is None:
            continue
        with lock:
            number = int(path.stem.rpartition("-")[2])
            for name in SHM_TO_CLEAN:
                _unlink_shared_memory(_get_path(number, name))
            for name in (BARRIER_FILELOCK, CACHE_FILELOCK):
                (folder / _get_path(number, name)).unlink(missing_ok=True)
            path.unlink(missing_ok=True)


def _create_locked(path: Path) -> IO[str]:
    """Creates a lock file that is locked from the moment it has its name."""
    partial = path.with_suffix(".new")
    lock = partial.open("w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    partial.rename(path)
    return lock


def _try_lock(path: Path) -> IO[str] | None:
    """Returns the locked file, or None when somebody else holds it or it is not ours to open."""
    try:
        lock = path.open("a")
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return None
    return lock


def _unlink_shared_memory(name: str) -> None:
    try:
        memory = SharedMemory(name)
    except FileNotFoundError:
        return
    memory.close()
    memory.unlink()
