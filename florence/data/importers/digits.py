"""scikit-learn's 1,797 handwritten digits as image files with captions (real data, no download)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch.nn.functional import interpolate
from torchvision.io import encode_png

from florence.config.run import DigitsSource
from florence.data.schema import Pair

CLASS_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

CAPTION_KINDS = (
    ("{}",),
    ("a handwritten {}", "handwritten {}", "the digit {}", "a scan of the number {}"),
    (
        "This is the digit {}, written by hand.",
        "Somebody has written the number {} with a pen.",
        "The picture shows a handwritten {} on a dark background.",
    ),
)
"""One word, phrases and sentences: as different in length as the texts of the web."""

CAPTIONS_FILE = "captions.jsonl"


def write_digits(source: DigitsSource, folder: Path) -> None:
    """Writes images/NNNN.png and captions.jsonl, one line per image, into `folder`."""
    digits = load_digits()
    images = torch.from_numpy(digits.images).float()[:, None] * (255 / 16)
    images = interpolate(images, size=source.image_size, mode="bicubic", align_corners=False)
    (folder / "images").mkdir(parents=True)
    with (folder / CAPTIONS_FILE).open("w") as captions:
        for index, (image, class_id) in enumerate(zip(images, digits.target, strict=True)):
            name = f"images/{index:04}.png"
            pixels = image.round().clamp(0, 255).byte().expand(3, -1, -1)
            (folder / name).write_bytes(encode_png(pixels.contiguous()).numpy().tobytes())
            text = caption(name, CLASS_NAMES[class_id])
            line = {"image": name, "text": text, "class_id": int(class_id)}
            captions.write(json.dumps(line) + "\n")


def caption(name: str, class_name: str) -> str:
    """Returns an image's caption: a word, a phrase or a sentence, decided by the image's name."""
    number = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big")
    rest, kind = divmod(number, len(CAPTION_KINDS))
    templates = CAPTION_KINDS[kind]
    return templates[rest % len(templates)].format(class_name)


def read_pairs(folder: Path) -> Iterator[Pair]:
    """Reads a folder of image files and their captions.jsonl."""
    with (folder / CAPTIONS_FILE).open() as captions:
        for line in captions:
            entry = json.loads(line)
            yield Pair(
                uid=entry["image"],
                image=(folder / entry["image"]).read_bytes(),
                text=entry["text"],
                class_id=entry["class_id"],
            )
