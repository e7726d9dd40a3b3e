"""Small sets of shards of the real digits, and a tokenizer for them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from florence.config.model import ModelConfig
from florence.data.curate import write_shards
from florence.data.importers.digits import CLASS_NAMES, read_pairs
from florence.data.labels import TextTable
from florence.data.tokenizer import Tokenizer, load_tokenizer

TEXT = ModelConfig(preset="pico").text


@pytest.fixture(scope="session")
def tokenizer(digits: Path) -> Tokenizer:
    return load_tokenizer(digits / "train" / "tokenizer.json", text=TEXT)


@pytest.fixture
def write_digits_shards(digits: Path, tmp_path: Path) -> Callable[[int], Path]:
    """Writes the first n digits in shards of about 40 and returns their folder."""

    def write(count: int) -> Path:
        pairs = list(read_pairs(digits / "source"))[:count]
        folder = tmp_path / f"digits-{count}"
        write_shards(folder, pairs, table=TextTable(), class_names=CLASS_NAMES, shard_bytes=60_000)
        return folder

    return write
