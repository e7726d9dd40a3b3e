"""The global batches are the same, bit for bit, on any ranks and nodes, also after `kill -9`."""

from __future__ import annotations

import importlib.util
import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import islice
from pathlib import Path

import psutil
import pytest

SCRIPT = Path(__file__).with_name("read_batches.py")
GLOBAL_BATCH = 96
BATCHES = 24
"""14 to an epoch."""


class Job:
    """A reading job of 2 ranks: one node of two processes, or two nodes of one."""

    def __init__(self, folder: Path, digits: Path, *, nodes: int, **changes: object) -> None:
        self.nodes, self.out, self.state = nodes, folder / "out", folder / "state.json"
        self.path = folder / "job.json"
        folder.mkdir(exist_ok=True)
        job = {
            "data": {"train": str(digits / "train"), "num_workers": 2},
            "global_batch_size": GLOBAL_BATCH,
            "batches": BATCHES,
            "save_at": 10,
            "out": str(self.out),
            "state": str(self.state),
        }
        self.path.write_text(json.dumps(job | changes))

    def start(self) -> list[subprocess.Popen[bytes]]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        torchrun = [
            *(sys.executable, "-m", "torch.distributed.run", f"--nnodes={self.nodes}"),
            *(f"--nproc-per-node={2 // self.nodes}", f"--master-port={port}"),
            *("--master-addr=127.0.0.1", "--node-rank"),
        ]
        return [
            subprocess.Popen([*torchrun, str(node), str(SCRIPT), str(self.path)])
            for node in range(self.nodes)
        ]

    def run(self) -> None:
        processes = self.start()
        try:
            assert [process.wait(timeout=240) for process in processes] == [0] * self.nodes
        finally:
            kill(processes)

    def global_batches(self) -> list[dict[str, str]]:
        """Returns the batches of both ranks, merged; no sample may be on both."""
        ranks = [self.out.with_suffix(f".{rank}").read_text().splitlines() for rank in (0, 1)]
        merged = []
        for lines in zip(*ranks, strict=False):
            parts = [json.loads(line) for line in lines]
            merged.append(parts[0] | parts[1])
            assert len(merged[-1]) == GLOBAL_BATCH
        return merged


def kill(processes: list[subprocess.Popen[bytes]]) -> None:
    """Kills processes and all they have started, at once and without warning."""
    alive = [psutil.Process(process.pid) for process in processes if process.poll() is None]
    for process in [*alive, *(child for p in alive for child in p.children(recursive=True))]:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    for process in processes:
        process.wait()


@pytest.fixture(scope="module")
def expected(digits: Path) -> list[dict[str, str]]:
    """The batches of one rank, read in this process."""
    spec = importlib.util.spec_from_file_location("read_batches", SCRIPT)
    read_batches = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(read_batches)
    data = {"train": str(digits / "train"), "num_workers": 0}
    loader = read_batches.open_loader(
        {"data": data, "global_batch_size": GLOBAL_BATCH}, world_size=1
    )
    batches = map(read_batches.digest, islice(loader, BATCHES))
    return [{str(key): value for key, value in batch.items()} for batch in batches]


def test_two_nodes_killed_and_resumed_on_one(
    digits: Path, tmp_path: Path, expected: list[dict[str, str]]
) -> None:
    first = Job(tmp_path, digits, nodes=2, batches=2_000)
    processes = first.start()
    try:
        wait_for(lambda: first.state.exists() and len(first.global_batches()) >= BATCHES)
    finally:
        kill(processes)
    assert first.global_batches()[:BATCHES] == expected

    second = Job(tmp_path, digits, nodes=1, batches=BATCHES - 10)
    second.run()
    assert second.global_batches() == expected[10:]


def wait_for(condition: Callable[[], bool], *, timeout_s: float = 240) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)
