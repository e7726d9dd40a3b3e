"""Fixtures shared by the suites: real digits, written once per session."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Two cores are shared by the processes of a test; more threads than cores only slow them down.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the training and validation shards of the 1,797 digits."""
    from florence.config.run import CurateRun
    from florence.data.curate import curate

    folder = tmp_path_factory.mktemp("data") / "digits"
    curate(CurateRun(name="digits", output=str(folder)))
    return folder
