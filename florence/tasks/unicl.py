"""Unified contrastive pretraining of the image and text towers (paper section 2.2)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from florence.data.schema import TOKENIZER_FILE
from florence.data.streams import EvalDataset
from florence.data.tokenizer import Tokenizer
from florence.models.florence import FlorenceModel, FlorenceOutput
from florence.models.weights import load_weights, save_model
from florence.objectives.unicl import unicl_loss
from florence.tasks.base import Batch, Task
from florence.tracking.registry import Servable

SERVING_REQUIREMENTS = (
    "fsspec",
    "mlflow",
    "numpy",
    "pandas",
    "pydantic",
    "safetensors",
    "tokenizers",
    "torch",
    "torchvision",
)
"""What loading and calling the registered model imports."""


class UniCLTask(Task[FlorenceOutput]):
    """The two towers under the UniCL loss, with the gradient cache of paper section 2.7.

    The cache is a checkpoint around each tower, chunk by chunk: only one chunk's activations are
    alive at a time, while the loss sees the whole batch and there is one backward pass.
    """

    def __init__(
        self, model: FlorenceModel, *, tokenizer: Tokenizer, chunk_size: int | None = None
    ) -> None:
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        self.chunk_size = chunk_size
        self.image_size = model.config.image.image_size

    def forward(self, batch: Batch) -> FlorenceOutput:
        """Embeds the batch's `image`, `input_ids` and `attention_mask`."""
        texts = batch["input_ids"], batch["attention_mask"]
        return FlorenceOutput(
            image_features=self._in_chunks(self.model.encode_image, batch["image"]),
            text_features=self._in_chunks(self.model.encode_text, *texts),
            logit_scale=self.model.logit_scale(),
        )

    def loss(self, outputs: FlorenceOutput, batch: Batch) -> dict[str, Tensor]:
        """Returns the UniCL loss over the images and texts of all ranks, and the logit scale."""
        loss = unicl_loss(
            outputs.image_features, outputs.text_features, batch["label"], outputs.logit_scale
        )
        return {"loss": loss, "logit_scale": outputs.logit_scale.detach().squeeze()}

    def predict(self, outputs: FlorenceOutput, batch: Batch) -> dict[str, Tensor]:
        """Returns the (B, B) similarity of the batch's images and texts."""
        return {"similarity": outputs.image_features @ outputs.text_features.T}

    def load(self, model_dir: Path) -> None:
        """Takes over both towers; position tables are resized to this model's resolution."""
        load_weights(self.model, model_dir)

    def save(self, state: dict[str, Tensor], folder: Path) -> None:
        """Writes the weights (safetensors), the model's configuration and its tokenizer."""
        weights = {name.removeprefix("model."): tensor for name, tensor in state.items()}
        save_model(weights, self.model.config, folder)
        self.tokenizer.save(folder / TOKENIZER_FILE)

    def servable(self, model_dir: Path, *, dataset: EvalDataset) -> Servable:
        """Serves zero-shot classification; the data's classes or texts are the default names."""
        rows = [dataset.read(index) for index in range(min(4, len(dataset)))]
        has_classes = "class_id" in rows[0]
        names = dataset.class_names if has_classes else sorted({row["text"] for row in rows})
        return Servable(
            model_dir=model_dir,
            predictor="florence.tasks.predictors:ZeroShotPredictor",
            images=[row["image"] for row in rows],
            params={"classes": list(names)},
            requirements=SERVING_REQUIREMENTS,
        )

    def encode_image(self, image: Tensor) -> Tensor:
        """Embeds (B, 3, H, W) normalised images as (B, D) unit vectors."""
        return self.model.encode_image(image)

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Embeds B texts as (B, D) unit vectors."""
        device = next(self.parameters()).device
        tokens = self.tokenizer(texts)
        return self.model.encode_text(tokens.input_ids.to(device), tokens.attention_mask.to(device))

    def _in_chunks(self, encode: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        if self.chunk_size is None or not torch.is_grad_enabled():
            return encode(*inputs)
        *chunks, last = zip(*(tensor.split(self.chunk_size) for tensor in inputs), strict=True)
        features = [checkpoint(encode, *chunk, use_reentrant=False) for chunk in chunks]
        # The last chunk's backward runs first, so its activations may as well be kept.
        return torch.cat([*features, encode(*last)])
