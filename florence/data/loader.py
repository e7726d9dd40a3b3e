"""Batches: the endless, exactly resumable loader to train with, and the finite one to evaluate.

What is random about a sample (crop, flip, prompt) depends on seed, epoch and sample alone, never on
a worker, a rank or what was read before. A resumed run therefore sees the same bits.
"""

from __future__ import annotations

import ctypes
import random
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from streaming import StreamingDataLoader
from streaming.base.distributed import barrier
from streaming.base.world import World
from torch.utils.data import DataLoader, Subset

from florence.config.data import DataConfig
from florence.data.collate import Batch, Collate, Sample
from florence.data.prompts import apply_prompt
from florence.data.schema import data_fingerprint
from florence.data.streams import EvalDataset, PairStream, RawSample, open_train_stream
from florence.data.tokenizer import Tokenizer
from florence.data.transforms import ImageTransform, sample_key, seeded, train_transform
from florence.util.errors import FlorenceError, InfrastructureError, UserError

STALL_TIMEOUT_S = 300
"""A batch that takes longer means a lost worker or a dead file system."""


@dataclass(frozen=True)
class PrepareTraining:
    """Augments the image and prompts the text of a raw sample."""

    image_transform: ImageTransform
    prompts: bool
    seed: int

    def __call__(self, raw: RawSample, *, sample_id: int, epoch: int, name: str) -> Sample:
        """Returns the sample as the model sees it in this epoch."""
        key = sample_key(self.seed, epoch=epoch, sample_id=sample_id)
        with seeded(key):
            image = self.image_transform(raw["image"], name=name)
        text = apply_prompt(raw["text"], random.Random(key)) if self.prompts else raw["text"]
        return Sample(image=image, text=text, label=raw["label"], sample_id=sample_id)


class TrainLoader:
    """This rank's micro-batches, epoch after epoch without end; to be iterated once.

    Its workers end when the iterator is dropped. `state_dict` is the position after the batch that
    was taken last, the same on every rank.
    """

    def __init__(
        self, stream: PairStream, *, batch_size: int, num_workers: int, tokenizer: Tokenizer
    ) -> None:
        self._stream = stream
        self._loader = StreamingDataLoader(
            stream,
            batch_size=batch_size,
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            timeout=STALL_TIMEOUT_S if num_workers else 0,
            collate_fn=Collate(tokenizer),
            worker_init_fn=_die_with_parent,
            generator=torch.Generator(),  # or every epoch draws from the one the model uses
            pin_memory=torch.cuda.is_available(),
        )
        self.samples_per_epoch: int = stream.epoch_size
        self.fingerprint = data_fingerprint(stream.streams[0].local)

    def __iter__(self) -> Iterator[Batch]:
        """Yields batches for ever; a fault of the data names the shard or sample."""
        try:
            while True:
                yield from self._loader
        except FlorenceError as error:
            # A worker's error arrives wrapped in its traceback; its own words are at the end.
            words = str(error).rpartition(f"{type(error).__name__}: ")[2]
            raise type(error)(words.strip()) from error
        except RuntimeError as error:
            if str(error).startswith("DataLoader "):  # timed out, or a worker was killed
                raise InfrastructureError(f"loading training data: {error}") from error
            raise
        finally:
            if self._loader._iterator is not None:
                self._loader._iterator._shutdown_workers()

    def state_dict(self) -> dict[str, Any]:
        """Returns the position in the data as plain numbers and text."""
        return {"stream": self._loader.state_dict(), "fingerprint": self.fingerprint}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues after a saved position; all ranks call it together, before iterating.

        Raises UserError when the shards are not those the position was saved with.
        """
        if state["fingerprint"] != self.fingerprint:
            raise UserError(
                "data.train holds other shards than when the checkpoint was saved: fingerprint "
                f"{self.fingerprint[:12]}, not {state['fingerprint'][:12]}; start a new run"
            )
        # Shared by the ranks of a node; created by two of them at once, it can be seen half-made.
        if World.detect().is_local_leader:
            self._loader.load_state_dict(state["stream"])
        barrier()


def build_train_loader(
    cfg: DataConfig, *, tokenizer: Tokenizer, image_size: int, micro_batch_size: int, seed: int
) -> TrainLoader:
    """Opens the training data on this rank; all ranks call it together.

    Raises UserError, naming the field, when the shards are missing, damaged or too few.
    """
    prepare = PrepareTraining(
        image_transform=train_transform(image_size, cfg.augment), prompts=cfg.prompts, seed=seed
    )
    stream = open_train_stream(cfg, prepare=prepare, micro_batch_size=micro_batch_size, seed=seed)
    return TrainLoader(
        stream, batch_size=micro_batch_size, num_workers=cfg.num_workers, tokenizer=tokenizer
    )


def build_eval_loader(
    dataset: EvalDataset,
    *,
    batch_size: int,
    rank: int,
    world_size: int,
    tokenizer: Tokenizer | None = None,
) -> DataLoader[Batch]:
    """Returns the batches of samples rank, rank + world_size, ...: each sample on one rank.

    Texts are tokenized only when a tokenizer is given.
    """
    return DataLoader(
        Subset(dataset, range(rank, len(dataset), world_size)),
        batch_size=batch_size,
        collate_fn=Collate(tokenizer),
        pin_memory=torch.cuda.is_available(),
    )


def _die_with_parent(_: int) -> None:
    """Makes a loader worker end with its rank, which may be killed without a chance to say so."""
    if sys.platform == "linux":
        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)
