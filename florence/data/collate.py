"""Samples -> batch: the tensors every task and evaluation receives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NotRequired, TypedDict

import torch
from torch import Tensor

from florence.data.tokenizer import Tokenizer

Batch = dict[str, Tensor]


class Sample(TypedDict):
    """A transformed pair."""

    image: Tensor
    """float32 (3, S, S), normalised."""
    text: str
    """The description, in its prompt template if it got one."""
    label: int
    """Text-hash key of the raw description."""
    sample_id: int
    """Position in the data set."""
    class_id: NotRequired[int]


class Collate:
    """Stacks B samples: `image` float32 (B, 3, S, S); `label`, `sample_id`, `class_id` int64 (B,).

    With a tokenizer also `input_ids` and `attention_mask`, int64 (B, context_length).
    """

    def __init__(self, tokenizer: Tokenizer | None) -> None:
        self._tokenizer = tokenizer

    def __call__(self, samples: Sequence[Sample]) -> Batch:
        """Returns the batch; `class_id` only when the samples have one."""
        batch = {"image": torch.stack([sample["image"] for sample in samples])}
        for name in ("label", "sample_id", "class_id"):
            if name in samples[0]:
                batch[name] = torch.tensor([sample[name] for sample in samples])
        if self._tokenizer is not None:
            batch.update(self._tokenizer([sample["text"] for sample in samples])._asdict())
        return batch
