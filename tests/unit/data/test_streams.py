"""Shards and images that are missing or damaged are errors with their name, never a short epoch."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from streaming import MDSWriter

from florence.config.data import DataConfig
from florence.data.loader import TrainLoader, build_train_loader
from florence.data.schema import COLUMNS
from florence.data.streams import open_eval_dataset
from florence.data.tokenizer import Tokenizer
from florence.util.errors import InfrastructureError, UserError

WORKERS = pytest.mark.parametrize("num_workers", [0, 2])


@pytest.fixture
def folder(write_digits_shards: Callable[[int], Path]) -> Path:
    return write_digits_shards(135)


def load(folder: Path, tokenizer: Tokenizer, **cfg: object) -> TrainLoader:
    return build_train_loader(
        DataConfig.model_validate({"train": str(folder), "num_workers": 0, **cfg}),
        tokenizer=tokenizer,
        image_size=32,
        micro_batch_size=32,
        seed=0,
    )


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@WORKERS
def test_damaged_shard_is_named(folder: Path, tokenizer: Tokenizer, num_workers: int) -> None:
    flip_a_bit(folder / "shard.00002.mds")
    with pytest.raises(UserError, match=r"^shard .*shard\.00002\.mds is damaged: its xxh64 is"):
        list(itertools.islice(load(folder, tokenizer, num_workers=num_workers), 8))


@WORKERS
def test_shard_lost_while_training_is_named(
    folder: Path, tokenizer: Tokenizer, num_workers: int
) -> None:
    loader = load(folder, tokenizer, num_workers=num_workers)
    (folder / "shard.00001.mds").unlink()
    with pytest.raises(InfrastructureError, match=r"^shard .*shard\.00001\.mds could not be read"):
        list(itertools.islice(loader, 8))


def test_missing_and_cut_shards_are_found_at_the_start(folder: Path, tokenizer: Tokenizer) -> None:
    path = folder / "shard.00003.mds"
    path.write_bytes(path.read_bytes()[:-10])
    for start in (
        lambda: load(folder, tokenizer),
        lambda: open_eval_dataset(str(folder), image_size=8),
    ):
        with pytest.raises(UserError, match=r"shard .*shard\.00003\.mds is missing or not the \d+"):
            start()
    path.unlink()
    with pytest.raises(UserError, match=r"shard .*shard\.00003\.mds is missing"):
        load(folder, tokenizer)


@WORKERS
def test_broken_image_is_named(tmp_path: Path, tokenizer: Tokenizer, num_workers: int) -> None:
    with MDSWriter(out=str(tmp_path), columns=COLUMNS) as writer:
        for index in range(40):
            writer.write({"uid": f"a/{index}", "image": b"<html>", "text": "x", "label": 1})
    with pytest.raises(UserError, match=r"^sample 'a/\d+' of shard\.00000\.mds in .* is not a rea"):
        next(iter(load(tmp_path, tokenizer, num_workers=num_workers)))


class TestCache:
    """Shards that are copied to the node before they are read."""

    def test_gives_the_same_batches(
        self, folder: Path, tokenizer: Tokenizer, tmp_path: Path
    ) -> None:
        local = load(folder, tokenizer)
        for num_workers in (0, 2):
            cached = load(
                folder, tokenizer, cache_dir=str(tmp_path / "cache"), num_workers=num_workers
            )
            assert cached.fingerprint == local.fingerprint
            both = zip(cached, load(folder, tokenizer), strict=True)
            for batch, other in itertools.islice(both, 6):
                assert all(torch.equal(batch[name], other[name]) for name in batch)

    def test_is_used_again_but_never_by_two_at_once(
        self, folder: Path, tokenizer: Tokenizer, tmp_path: Path
    ) -> None:
        def folders() -> set[str]:
            return {path.parent.name for path in (tmp_path / "cache").rglob("index.json")}

        first = load(folder, tokenizer, cache_dir=str(tmp_path / "cache"))
        second = load(folder, tokenizer, cache_dir=str(tmp_path / "cache"))
        assert folders() == {"0", "1"}
        del first, second
        third = load(folder, tokenizer, cache_dir=str(tmp_path / "cache"))
        assert third
        assert folders() == {"0", "1"}

    def test_a_damaged_copy_is_fetched_again(
        self, folder: Path, tokenizer: Tokenizer, tmp_path: Path
    ) -> None:
        def read() -> None:
            list(itertools.islice(load(folder, tokenizer, cache_dir=str(tmp_path / "cache")), 8))

        read()
        (copy,) = (tmp_path / "cache").rglob("shard.00001.mds")
        flip_a_bit(copy)
        with pytest.raises(InfrastructureError, match=r"shard\.00001\.mds is damaged.*was removed"):
            read()
        read()

    @WORKERS
    def test_a_shard_that_is_nowhere_is_named(
        self, folder: Path, tokenizer: Tokenizer, tmp_path: Path, num_workers: int
    ) -> None:
        (folder / "shard.00001.mds").unlink()
        loader = load(folder, tokenizer, cache_dir=str(tmp_path), num_workers=num_workers)
        with pytest.raises(InfrastructureError, match=r"^shard .*shard\.00001\.mds could not be"):
            list(itertools.islice(loader, 8))

    def test_a_remote_folder_without_shards_is_named(
        self, tokenizer: Tokenizer, tmp_path: Path
    ) -> None:
        with pytest.raises(UserError, match=r"data\.train = '/no/such' has no index\.json"):
            load(Path("/no/such"), tokenizer, cache_dir=str(tmp_path))


def test_canonical_nodes_must_fit(
    folder: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(UserError, match=r"data\.num_canonical_nodes = 3 and the 4 nodes"):
        load(folder, tokenizer, num_canonical_nodes=3)


def test_eval_dataset_gives_what_was_written(digits: Path) -> None:
    dataset = open_eval_dataset(str(digits / "val"), image_size=16)
    assert len(dataset) == 359
    assert dataset.class_names[3] == "three"
    assert dataset.picture(5).shape == (32, 32, 3)
    sample, raw = dataset[5], dataset.read(5)
    assert sample["image"].shape == (3, 16, 16)
    assert (sample["sample_id"], sample["class_id"]) == (5, raw["class_id"])
    assert dataset.class_names[raw["class_id"]] in raw["text"]


def test_eval_dataset_checks_its_shards(digits: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(digits / "val", tmp_path / "val")
    flip_a_bit(copy / "shard.00000.mds")
    with pytest.raises(UserError, match=r"shard .*shard\.00000\.mds is damaged"):
        open_eval_dataset(str(copy), image_size=16)[0]
    with pytest.raises(UserError, match=r"evaluation\.path = 's3:/+x' is not a folder"):
        open_eval_dataset("s3://x", image_size=16)


def test_shards_without_hashes_are_read(digits: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(digits / "val", tmp_path / "val")
    index = json.loads((copy / "index.json").read_text())
    index["shards"][0]["raw_data"]["hashes"] = {}
    (copy / "index.json").write_text(json.dumps(index))
    assert open_eval_dataset(str(copy), image_size=16)[358]["sample_id"] == 358
