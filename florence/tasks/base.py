"""What the training loop and the evaluators know of a task; everything else is the task's own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Generic, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn

from florence.data.streams import EvalDataset
from florence.tracking.registry import Servable

Batch = dict[str, Tensor]
OutputsT = TypeVar("OutputsT")


class Task(nn.Module, ABC, Generic[OutputsT]):
    """A model and what it is trained for; the module DeepSpeed wraps.

    `forward(batch)` runs the model, `loss` turns its outputs into named scalars of which `loss`
    is minimised, `predict` turns them into what a user asks for.
    """

    @abstractmethod
    def forward(self, batch: Batch) -> OutputsT:
        """Runs the model on this rank's samples."""

    @abstractmethod
    def loss(self, outputs: OutputsT, batch: Batch) -> dict[str, Tensor]:
        """Returns scalars whose mean over ranks is the global value; `loss` is minimised."""

    @abstractmethod
    def predict(self, outputs: OutputsT, batch: Batch) -> dict[str, Tensor]:
        """Returns one row of predictions per sample."""

    @abstractmethod
    def load(self, model_dir: Path) -> None:
        """Takes over the weights of a saved model, which may have another resolution."""

    @abstractmethod
    def save(self, state: dict[str, Tensor], folder: Path) -> None:
        """Writes the model folder; `state` is the whole state dict of this module."""

    @abstractmethod
    def servable(self, model_dir: Path, *, dataset: EvalDataset) -> Servable:
        """Describes how the saved model is served, with examples taken from `dataset`."""


@runtime_checkable
class TwoTower(Protocol):
    """A task whose model embeds images and texts into one space: what zero-shot needs."""

    image_size: int

    def encode_image(self, image: Tensor) -> Tensor:
        """Embeds (B, 3, H, W) normalised images as (B, D) unit vectors."""

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Embeds B texts as (B, D) unit vectors."""


def embed_classes(towers: TwoTower, names: Sequence[str], templates: Sequence[str]) -> Tensor:
    """Embeds class names with a prompt ensemble: (C, D) unit vectors.

    Each class is the normalised mean of its templates' features, as in CLIP (paper section 3.1).
    """
    classes = []
    for name in names:
        features = towers.encode_texts([template.format(name) for template in templates])
        classes.append(nn.functional.normalize(features.mean(dim=0), dim=0))
    return torch.stack(classes)


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Copies a batch to a device without blocking the host."""
    return {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}
