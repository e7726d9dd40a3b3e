"""The training stream is endless, exact on resume and the same on any number of workers."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import torch

from florence.config.data import DataConfig
from florence.data.collate import Batch
from florence.data.labels import text_key
from florence.data.loader import (
    TrainLoader,
    _die_with_parent,
    build_eval_loader,
    build_train_loader,
)
from florence.data.streams import open_eval_dataset
from florence.data.tokenizer import Tokenizer
from florence.util.errors import UserError

BATCH = 32


@pytest.fixture
def folder(write_digits_shards: Callable[[int], Path]) -> Path:
    """Four batches of 32 an epoch, and seven samples too many, in four shards."""
    return write_digits_shards(135)


@pytest.fixture
def build(folder: Path, tokenizer: Tokenizer) -> Callable[..., TrainLoader]:
    def build(*, num_workers: int = 0, seed: int = 0, **cfg: object) -> TrainLoader:
        return build_train_loader(
            DataConfig.model_validate({"train": str(folder), "num_workers": num_workers, **cfg}),
            tokenizer=tokenizer,
            image_size=32,
            micro_batch_size=BATCH,
            seed=seed,
        )

    return build


def take(loader: TrainLoader, count: int) -> list[Batch]:
    return list(itertools.islice(loader, count))


def assert_equal(found: list[Batch], expected: list[Batch]) -> None:
    assert len(found) == len(expected)
    for batch, other in zip(found, expected, strict=True):
        assert batch.keys() == other.keys()
        for name in batch:
            assert torch.equal(batch[name], other[name]), name


def test_batches_follow_the_contract(build: Callable[..., TrainLoader]) -> None:
    (batch,) = take(build(), 1)
    shapes = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in batch.items()}
    assert shapes == {
        "image": ((BATCH, 3, 32, 32), torch.float32),
        "input_ids": ((BATCH, 24), torch.int64),
        "attention_mask": ((BATCH, 24), torch.int64),
        "label": ((BATCH,), torch.int64),
        "sample_id": ((BATCH,), torch.int64),
    }


def test_epochs_shuffle_and_repeat_nothing(build: Callable[..., TrainLoader]) -> None:
    loader = build()
    assert loader.samples_per_epoch == 4 * BATCH
    batches = take(loader, 12)
    epochs = [
        torch.cat([batch["sample_id"] for batch in batches[start : start + 4]]).tolist()
        for start in (0, 4, 8)
    ]
    assert all(len(set(epoch)) == 4 * BATCH for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert set(epochs[0]) != set(epochs[1])  # others are left out
    assert epochs[0] != sorted(epochs[0])


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("position", [0, 3, 4, 6])  # before, inside, at the end of, after an epoch
def test_resume_is_exact(
    build: Callable[..., TrainLoader], num_workers: int, position: int
) -> None:
    first = build(num_workers=num_workers)
    iterator = iter(first)
    for _ in range(position):
        next(iterator)
    state = first.state_dict()
    expected = list(itertools.islice(iterator, 7))

    resumed = build(num_workers=num_workers)
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state
    assert_equal(take(resumed, 3), expected[:3])
    state = resumed.state_dict()
    again = build(num_workers=2 - num_workers)
    again.load_state_dict(state)
    assert_equal(take(again, 4), expected[3:])


def test_workers_change_nothing(build: Callable[..., TrainLoader]) -> None:
    assert_equal(take(build(num_workers=2), 9), take(build(num_workers=0), 9))


def test_loading_leaves_the_random_state_alone(build: Callable[..., TrainLoader]) -> None:
    for num_workers in (0, 2):
        before = torch.get_rng_state()
        take(build(num_workers=num_workers), 9)
        assert torch.equal(torch.get_rng_state(), before)


def test_workers_end_with_the_iterator(build: Callable[..., TrainLoader]) -> None:
    batches = iter(build(num_workers=2))
    next(batches)
    assert len(multiprocessing.active_children()) == 2
    del batches
    assert not multiprocessing.active_children()


def test_workers_do_not_outlive_a_killed_rank() -> None:
    context = multiprocessing.get_context("fork")
    pid = context.SimpleQueue()

    def worker() -> None:
        _die_with_parent(0)
        pid.put(os.getpid())
        time.sleep(60)

    def rank() -> None:
        context.Process(target=worker).start()
        time.sleep(60)

    process = context.Process(target=rank)
    process.start()
    orphan = psutil.Process(pid.get())
    process.kill()
    process.join()
    with suppress(psutil.NoSuchProcess):  # it may be gone by now
        assert orphan.wait(timeout=5) is None


def test_seeds_change_order_and_augmentation(build: Callable[..., TrainLoader]) -> None:
    assert not torch.equal(take(build(seed=1), 1)[0]["sample_id"], take(build(), 1)[0]["sample_id"])


def test_a_sample_looks_different_in_every_epoch(build: Callable[..., TrainLoader]) -> None:
    loader = build(augment={"crop_scale": (0.5, 0.6)})
    seen: dict[int, list[bytes]] = {}
    for batch in take(loader, 8):
        for sample_id, image in zip(batch["sample_id"].tolist(), batch["image"], strict=True):
            seen.setdefault(sample_id, []).append(image.numpy().tobytes())
    twice = [images for images in seen.values() if len(images) == 2]
    assert len(twice) > 100
    assert sum(first != second for first, second in twice) > 0.9 * len(twice)


def test_prompts_change_short_texts_and_never_labels(
    build: Callable[..., TrainLoader], folder: Path, tokenizer: Tokenizer
) -> None:
    raw = open_eval_dataset(str(folder), image_size=32)
    changed: Counter[bool] = Counter()
    for prompts in (True, False):
        for batch in take(build(prompts=prompts), 4):
            for row, sample_id in enumerate(batch["sample_id"].tolist()):
                text = raw.read(sample_id)["text"]
                assert batch["label"][row] == text_key(text)
                as_written = torch.equal(batch["input_ids"][row], tokenizer([text]).input_ids[0])
                short = len(text.split()) <= 2
                assert as_written or (prompts and short)
                changed[prompts and short and not as_written] += 1
    assert changed[True] > 20


def test_two_jobs_read_one_folder_at_once(build: Callable[..., TrainLoader]) -> None:
    one, two = iter(build(num_workers=2)), iter(build(num_workers=2))
    together = [next(iterator) for _ in range(5) for iterator in (one, two)]
    assert_equal(together[::2], together[1::2])


def test_position_in_other_data_is_refused(
    build: Callable[..., TrainLoader], write_digits_shards: Callable[[int], Path]
) -> None:
    state = build(train=str(write_digits_shards(99))).state_dict()
    with pytest.raises(UserError, match=r"data\.train holds other shards than when the checkpoint"):
        build().load_state_dict(state)


def test_fewer_samples_than_a_batch_are_refused(
    build: Callable[..., TrainLoader], write_digits_shards: Callable[[int], Path]
) -> None:
    with pytest.raises(UserError, match=r"has 20 samples, less than one global batch \(32\)"):
        build(train=str(write_digits_shards(20)))


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_evaluation_sees_every_sample_once(
    folder: Path, tokenizer: Tokenizer, world_size: int
) -> None:
    dataset = open_eval_dataset(str(folder), image_size=16)
    seen = []
    for rank in range(world_size):
        loader = build_eval_loader(
            dataset, batch_size=50, rank=rank, world_size=world_size, tokenizer=tokenizer
        )
        for batch in loader:
            assert batch["image"].shape[1:] == (3, 16, 16)
            assert batch["input_ids"].shape == batch["attention_mask"].shape
            seen += zip(batch["sample_id"].tolist(), batch["class_id"].tolist(), strict=True)
    assert sorted(seen) == [(i, dataset.read(i)["class_id"]) for i in range(135)]


def test_evaluation_with_more_ranks_than_samples(
    write_digits_shards: Callable[[int], Path],
) -> None:
    dataset = open_eval_dataset(str(write_digits_shards(2)), image_size=16)
    lengths = [
        len(build_eval_loader(dataset, batch_size=4, rank=rank, world_size=4)) for rank in range(4)
    ]
    assert lengths == [1, 1, 0, 0]
