"""Every kind of image file becomes the same kind of tensor; broken ones are named."""

from __future__ import annotations

import io

import pytest
import torch
from PIL import Image

from florence.config.data import AugmentConfig
from florence.data.transforms import (
    IMAGE_MEAN,
    IMAGE_STD,
    decode_image,
    eval_transform,
    sample_key,
    seeded,
    train_transform,
)
from florence.util.errors import UserError


def image_file(mode: str, kind: str, *, size: tuple[int, int] = (40, 24)) -> bytes:
    """An image file, `size` (width, height), whose left half is black and right half white."""
    image = Image.new("L", size)
    image.paste(255, (size[0] // 2, 0, *size))
    buffer = io.BytesIO()
    image.convert(mode).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("mode", "kind"),
    [("RGB", "JPEG"), ("L", "JPEG"), ("RGB", "PNG"), ("L", "PNG"), ("RGBA", "PNG"), ("P", "PNG")],
)
def test_decodes_to_rgb(mode: str, kind: str) -> None:
    image = decode_image(image_file(mode, kind), name="x")
    assert image.shape == (3, 24, 40)
    assert image.dtype == torch.uint8
    assert image[:, :, :15].max() < 8
    assert image[:, :, 25:].min() > 247


@pytest.mark.parametrize(
    "data", [b"", b"<html>404</html>", image_file("RGB", "PNG")[:60], image_file("L", "JPEG")[:200]]
)
def test_broken_image_is_named(data: bytes) -> None:
    with pytest.raises(UserError, match=r"^sample 'a/b\.png' of shard 3 is not a readable JPEG"):
        eval_transform(16)(data, name="sample 'a/b.png' of shard 3")


def test_evaluation_takes_the_centre_and_normalises() -> None:
    image = eval_transform(16)(image_file("RGB", "PNG"))
    assert image.shape == (3, 16, 16)
    assert image.dtype == torch.float32
    mean, std = torch.tensor(IMAGE_MEAN), torch.tensor(IMAGE_STD)
    torch.testing.assert_close(image[:, 8, 2], -mean / std)
    torch.testing.assert_close(image[:, 8, 13], (1 - mean) / std)


def test_training_crops_and_flips_at_random() -> None:
    data = image_file("RGB", "PNG")
    transform = train_transform(16, AugmentConfig(crop_scale=(0.5, 1), horizontal_flip=True))
    images = []
    for key in range(20):
        with seeded(key):
            images.append(transform(data))
    assert {image.shape for image in images} == {(3, 16, 16)}
    assert len({image.numpy().tobytes() for image in images}) == 20
    flipped = [bool(image[0, 8, 0] > image[0, 8, -1]) for image in images]
    assert True in flipped
    assert False in flipped
    still = train_transform(16, AugmentConfig(crop_scale=(0.5, 1)))
    assert all(still(data)[0, 8, 0] < still(data)[0, 8, -1] for _ in range(10))


def test_seeded_depends_on_its_key_alone_and_leaves_no_trace() -> None:
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    drawn = []
    for key in (1, 2, 1):
        with seeded(key):
            drawn.append(torch.rand(1).item())
    assert drawn[0] == drawn[2] != drawn[1]
    assert torch.equal(torch.rand(2), expected)


def test_sample_keys_differ() -> None:
    keys = {sample_key(s, epoch=e, sample_id=i) for s in (0, 1) for e in (0, 1) for i in range(99)}
    assert len(keys) == 2 * 2 * 99
    assert sample_key(1, epoch=11, sample_id=0) != sample_key(11, epoch=1, sample_id=0)
