"""Starting and ending the process group; several ranks are in tests/distributed."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest
import torch.distributed as dist

from florence.distributed.setup import init_distributed, shutdown
from florence.util.errors import InfrastructureError


def test_without_torchrun_there_is_one_rank_and_shutdown_ends_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "0")  # given back afterwards: init_distributed sets it
    monkeypatch.setenv("WORLD_SIZE", "4")  # the operator's number of pods, not of ranks
    for _ in range(2):
        ranks = init_distributed()
        try:
            assert (ranks.rank, ranks.world_size, ranks.local_world_size) == (0, 1, 1)
            assert ranks.is_main
            assert dist.is_initialized()
        finally:
            shutdown()
        assert not dist.is_initialized()
    shutdown()  # without a group: nothing to do


def test_an_unreachable_master_is_an_infrastructure_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as nobody_listens:
        nobody_listens.bind(("127.0.0.1", 0))
        port = str(nobody_listens.getsockname()[1])
        environment = {
            "TORCHELASTIC_RUN_ID": "test",
            "RANK": "1",
            "WORLD_SIZE": "2",
            "LOCAL_RANK": "0",
            "LOCAL_WORLD_SIZE": "1",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
        }
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(InfrastructureError, match=f"rank 1 of 2 .* 127.0.0.1:{port}"):
            init_distributed(timeout_s=1)
    assert not dist.is_initialized()


TWO_ENGINES = """
import deepspeed, torch
from florence.distributed.setup import init_distributed, shutdown

for _ in range(2):
    init_distributed()
    layer = torch.nn.Linear(4, 1)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    engine, *_ = deepspeed.initialize(
        model=layer, optimizer=optimizer, config={"train_micro_batch_size_per_gpu": 2}
    )
    engine.backward(engine(torch.ones(2, 4)).sum())
    engine.step()
    shutdown()
"""


def test_deepspeed_takes_the_group_over_and_can_start_again_after_shutdown() -> None:
    subprocess.run([sys.executable, "-c", TWO_ENGINES], check=True, timeout=250)
