"""What a killed job leaves in shared memory is removed; what a living one uses is not."""

from __future__ import annotations

import signal
import subprocess
import sys
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from tempfile import gettempdir

import pytest
from streaming.base.constant import BARRIER_FILELOCK, NEXT_EPOCH

from florence.config.data import DataConfig
from florence.data.loader import TrainLoader, build_train_loader
from florence.data.node import LOCK_NAME, NodeCache, NumberLease, remove_stale
from florence.data.tokenizer import Tokenizer

HOLDER = """
import fcntl, sys, time
lock = open(sys.argv[1], "w")
fcntl.flock(lock, fcntl.LOCK_EX)
print("locked", flush=True)
time.sleep(60)
"""


@pytest.fixture
def loader(digits: Path, tokenizer: Tokenizer) -> TrainLoader:
    return build_train_loader(
        DataConfig(train=str(digits / "train"), num_workers=0),
        tokenizer=tokenizer,
        image_size=32,
        micro_batch_size=64,
        seed=0,
    )


def has_shared_memory(number: int) -> bool:
    try:
        SharedMemory(f"{number:06}_{NEXT_EPOCH}").close()
    except FileNotFoundError:
        return False
    return True


def test_a_killed_process_leaves_nothing_for_long() -> None:
    number = 7
    lock = Path(gettempdir(), LOCK_NAME.format(number))
    filelock = Path(gettempdir(), f"{number:06}_{BARRIER_FILELOCK}")
    filelock.touch()
    memory = SharedMemory(f"{number:06}_{NEXT_EPOCH}", create=True, size=8)
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(lock)], stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout
        holder.stdout.readline()
        remove_stale()
        assert has_shared_memory(number)
        assert filelock.exists()
        holder.send_signal(signal.SIGKILL)
    remove_stale()
    memory.close()
    assert not has_shared_memory(number)
    assert not filelock.exists()
    assert not lock.exists()


def test_a_loader_keeps_its_own(loader: TrainLoader) -> None:
    number = loader._stream._shm_prefix_int
    assert has_shared_memory(number)
    remove_stale()
    assert has_shared_memory(number)
    assert next(iter(loader))


def test_numbers_are_released_with_their_owner() -> None:
    first, second = NumberLease(), NumberLease()
    path = Path(gettempdir(), LOCK_NAME.format(first.number))
    assert first.number != second.number
    assert path.exists()
    del first
    remove_stale()
    assert not path.exists()
    assert Path(gettempdir(), LOCK_NAME.format(second.number)).exists()


def test_caches_are_not_shared_and_used_again(tmp_path: Path) -> None:
    first, second = NodeCache(tmp_path / "cache"), NodeCache(tmp_path / "cache")
    assert (first.folder.name, second.folder.name) == ("0", "1")
    del first
    assert NodeCache(tmp_path / "cache").folder.name == "0"
