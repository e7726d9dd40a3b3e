"""From the bytes of an image file to a normalised tensor, for training and for evaluation."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torchvision.io import ImageReadMode
from torchvision.io import decode_image as _decode
from torchvision.transforms import v2

from florence.config.data import AugmentConfig
from florence.util.errors import UserError

IMAGE_MEAN, IMAGE_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""ImageNet's, per channel of an RGB image in [0, 1]."""

BICUBIC = v2.InterpolationMode.BICUBIC


class ImageTransform:
    """Decodes an image, applies the given steps to it and normalises it."""

    def __init__(self, *steps: nn.Module) -> None:
        self._steps = steps
        self._mean, self._std = (
            255 * torch.tensor(c)[:, None, None] for c in (IMAGE_MEAN, IMAGE_STD)
        )

    def __call__(self, data: bytes, *, name: str = "the image") -> Tensor:
        """Returns float32 (3, size, size); UserError with `name` when `data` is no image."""
        image = decode_image(data, name=name)
        for step in self._steps:
            image = step(image)
        return (image - self._mean) / self._std


def train_transform(image_size: int, cfg: AugmentConfig) -> ImageTransform:
    """Random resized crop and, if asked for, random flip; draws from torch's CPU generator."""
    flip = [v2.RandomHorizontalFlip()] if cfg.horizontal_flip else []
    crop = v2.RandomResizedCrop(image_size, scale=cfg.crop_scale, interpolation=BICUBIC)
    return ImageTransform(crop, *flip)


def eval_transform(image_size: int) -> ImageTransform:
    """Shorter side resized to `image_size` pixels, then the square in the centre."""
    return ImageTransform(v2.Resize(image_size, BICUBIC), v2.CenterCrop(image_size))


def decode_image(data: bytes, *, name: str) -> Tensor:
    """Decodes a JPEG or PNG as uint8 RGB (3, H, W); UserError with `name` when it is broken."""
    try:
        # frombuffer wants a buffer it may write to
        return _decode(torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.RGB)
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{name} is not a readable JPEG or PNG: {reason}") from error


def sample_key(seed: int, *, epoch: int, sample_id: int) -> int:
    """Returns the 64-bit seed of everything random about one sample in one epoch."""
    text = f"{seed}/{epoch}/{sample_id}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


@contextmanager
def seeded(key: int) -> Iterator[None]:
    """Inside, torch's CPU generator depends on `key` alone; outside, nothing has happened."""
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed, which would also reset the GPU's generator.
        torch.default_generator.manual_seed(key)
        yield
