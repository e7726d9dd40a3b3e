"""Shards -> samples: the shuffled, resumable stream to train on and the indexed set to evaluate on.

Streaming 0.13.0 as it comes ends an epoch early, without an exception, when a shard is missing or
damaged, and never checks shards that are already local. Both are found here, and the shard named.
"""

from __future__ import annotations

import math
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from multiprocessing.sharedctypes import RawValue
from pathlib import Path
from typing import Any, NoReturn

from streaming import LocalDataset, StreamingDataset
from streaming.base.dataset import _ShardState
from streaming.base.format.mds.reader import MDSReader
from streaming.base.hashing import get_hash
from streaming.base.world import World
from torch import Tensor
from torch.utils.data import Dataset

from florence.config.data import DataConfig
from florence.data.collate import Sample
from florence.data.node import NodeCache, on_node_leader
from florence.data.schema import INDEX_FILE, read_class_names, read_index
from florence.data.storage import cache_folder, fetch
from florence.data.transforms import decode_image, eval_transform
from florence.util.errors import InfrastructureError, UserError

RawSample = dict[str, Any]
PrepareSample = Callable[..., Sample]
"""(raw sample, *, sample_id, epoch, name) -> sample."""


class PairStream(StreamingDataset):
    """This rank's part of a shuffled sequence of samples, one epoch per iteration."""

    def __init__(
        self, *, folder: Path, cache: NodeCache | None, prepare: PrepareSample, **settings: Any
    ) -> None:
        super().__init__(local=str(folder), shuffle=True, shuffle_algo="py1e", **settings)
        self._cache = cache
        self._prepare = prepare
        self._checker = ShardChecker(cached=cache is not None)
        self._epoch = 0
        # Streaming's sign that a thread has failed, here seen by all loader workers of the rank:
        # those that wait for the same shard would wait for ever.
        self._event = multiprocessing.Event()
        self._failed_shard = RawValue("q", -1)
        self._failure: BaseException | None = None

    def __iter__(self) -> Iterator[Sample]:
        """Yields this worker's samples of the next epoch; raises what stopped it or another."""
        try:
            yield from super().__iter__()
        except RuntimeError:
            if not self._event.is_set():
                raise
        finally:
            # Or its threads would look ahead, and keep this object, until the process ends.
            if hasattr(self, "_iterator"):
                self._iterator.non_blocking_exit()
        if self._event.is_set():
            self._raise_failure()

    def get_item(self, sample_id: int, retry: int = 7) -> Sample:
        """Reads and transforms one sample."""
        shard = self.shards[self.spanner[sample_id][0]]
        self._checker.check(shard)
        raw = super().get_item(sample_id, retry)
        name = f"sample {raw['uid']!r} of {shard.raw_data.basename} in {shard.dirname}"
        return self._prepare(raw, sample_id=int(sample_id), epoch=self._epoch, name=name)

    def prepare_shard(self, shard_id: int, blocking: bool = True) -> None:
        """Makes a shard local; one that cannot be had is an InfrastructureError with its name."""
        # A thread asks for every sample ahead of it, which would take a file lock each time.
        if not blocking and not self.cache_limit and self._checker.passed(self.shards[shard_id]):
            return
        try:
            super().prepare_shard(shard_id, blocking)
        except Exception as error:
            self._shard_states[shard_id] = _ShardState.REMOTE  # not "being prepared" any more
            self._failed_shard.value = shard_id
            self._event.set()
            path = shard_path(self.shards[shard_id])
            reason = "the file is gone" if self._cache is None else error
            raise InfrastructureError(f"shard {path} could not be read: {reason}") from error

    def on_exception(self, future: Future[None]) -> None:
        """Keeps the error of a background thread for `__iter__` to raise."""
        if error := future.exception():
            self._failure = error
            self._event.set()

    def _raise_failure(self) -> NoReturn:
        if self._failure is not None:
            raise self._failure
        shard_id = self._failed_shard.value
        if shard_id < 0:
            raise InfrastructureError("reading shards failed in another loader worker")
        self.prepare_shard(shard_id)  # most likely fails here too, and says why
        path = shard_path(self.shards[shard_id])
        raise InfrastructureError(f"shard {path} could not be read in another loader worker")

    def _resume_incr_epoch(self) -> tuple[int, int]:
        self._epoch, sample_in_epoch = super()._resume_incr_epoch()
        return self._epoch, sample_in_epoch


def open_train_stream(
    cfg: DataConfig, *, prepare: PrepareSample, micro_batch_size: int, seed: int
) -> PairStream:
    """Opens the shards of `cfg.train`; all ranks call it together.

    An epoch is cut to whole global batches, leaving out other samples each time: it is the same
    sequence of global batches on any number of ranks.
    """
    cache = None
    folder = Path(cfg.train)
    if cfg.cache_dir is not None:
        cache = NodeCache(cache_folder(cfg.cache_dir, cfg.train))
        folder = cache.folder
        on_node_leader(lambda: fetch(cfg.train, INDEX_FILE, folder, field="data.train"))
    shards = read_index(folder, field="data.train")
    epoch_size = _epoch_size(cfg, shards, micro_batch_size=micro_batch_size)
    if cache is None:
        on_node_leader(lambda: check_files(folder, shards))
    return PairStream(
        folder=folder,
        cache=cache,
        prepare=prepare,
        remote=None if cache is None else cfg.train,
        batch_size=micro_batch_size,
        epoch_size=epoch_size,
        # Choosing the samples of a cut epoch one by one would take Python minutes on a large set.
        sampling_granularity=1024,
        num_canonical_nodes=cfg.num_canonical_nodes,
        shuffle_seed=seed,
    )


def _epoch_size(cfg: DataConfig, shards: list[dict[str, Any]], *, micro_batch_size: int) -> int:
    world, nodes = World.detect(), cfg.num_canonical_nodes
    if nodes % world.num_nodes and world.num_nodes % nodes:
        raise UserError(
            f"data.num_canonical_nodes = {nodes} and the {world.num_nodes} nodes of the job: "
            f"one must be a multiple of the other"
        )
    samples = sum(shard["samples"] for shard in shards)
    unit = math.lcm(micro_batch_size * world.num_ranks, nodes)
    if samples < unit:
        raise UserError(
            f"data.train = {cfg.train!r} has {samples} samples, less than one global batch "
            f"({unit}); lower training.global_batch_size"
        )
    return samples - samples % unit


class EvalDataset(Dataset[Sample]):
    """Every sample of a folder of shards by its position, in the order it was written."""

    def __init__(self, folder: Path, *, image_size: int) -> None:
        self._shards = LocalDataset(str(folder))
        self._checker = ShardChecker(cached=False)
        self._transform = eval_transform(image_size)
        self._folder = folder

    def __len__(self) -> int:
        return len(self._shards)

    def __getitem__(self, index: int) -> Sample:
        raw = self.read(index)
        sample = Sample(
            image=self._transform(raw["image"], name=self._name(raw)),
            text=raw["text"],
            label=raw["label"],
            sample_id=index,
        )
        if "class_id" in raw:
            sample["class_id"] = raw["class_id"]
        return sample

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names that `class_id` indexes; UserError when the shards have no classes."""
        return read_class_names(self._folder)

    def read(self, index: int) -> RawSample:
        """Returns a sample as it was written: uid, image bytes, text, label and class_id if any."""
        shard_id, _ = self._shards.spanner[index]
        self._checker.check(self._shards.shards[shard_id])
        return self._shards[index]

    def picture(self, index: int) -> Tensor:
        """Returns an image as it was written, uint8 (H, W, 3)."""
        raw = self.read(index)
        return decode_image(raw["image"], name=self._name(raw)).permute(1, 2, 0)

    def _name(self, raw: RawSample) -> str:
        return f"sample {raw['uid']!r} of {self._folder}"


def open_eval_dataset(path: str, *, image_size: int) -> EvalDataset:
    """Opens the shards of a local folder; UserError when it holds none."""
    folder = Path(path)
    check_files(folder, read_index(folder, field="evaluation.path"))
    return EvalDataset(folder, image_size=image_size)


class ShardChecker:
    """Compares every shard with its hash in index.json, once per process, before it is read."""

    def __init__(self, *, cached: bool) -> None:
        self._cached = cached
        self._checked: set[str] = set()

    def passed(self, shard: MDSReader) -> bool:
        """True when this process has found the shard whole."""
        return shard.raw_data.basename in self._checked

    def check(self, shard: MDSReader) -> None:
        """Raises when the shard's file is damaged; a cached copy is removed, to be fetched anew."""
        if self.passed(shard):
            return
        path = shard_path(shard)
        if not path.exists():  # not fetched yet, or evicted
            return
        for name, expected in shard.raw_data.hashes.items():
            found = get_hash(name, path.read_bytes())
            if found == expected:
                continue
            fault = f"shard {path} is damaged: its {name} is {found}, {INDEX_FILE} says {expected}"
            if self._cached:
                path.unlink()
                raise InfrastructureError(f"{fault}; the copy was removed")
            raise UserError(f"{fault}; write it again")
        self._checked.add(path.name)


def check_files(folder: Path, shards: list[dict[str, Any]]) -> None:
    """Raises UserError, naming the first shard whose file is missing or has the wrong size."""
    for shard in shards:
        infos = [info for info in (shard["raw_data"], shard["zip_data"]) if info]
        sizes = {folder / info["basename"]: info["bytes"] for info in infos}
        if not any(path.is_file() and path.stat().st_size == sizes[path] for path in sizes):
            path, size = next(iter(sizes.items()))
            raise UserError(f"shard {path} is missing or not the {size} bytes {INDEX_FILE} lists")


def shard_path(shard: MDSReader) -> Path:
    """Returns the file a shard is read from."""
    return Path(shard.dirname, shard.split, shard.raw_data.basename)
