"""What a folder of shards holds: its MDS columns, the files beside the shards, its fingerprint.

<folder>/index.json  shard.00000.mds ...  tokenizer.json  [classes.json]
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from florence.util.errors import UserError

COLUMNS = {"uid": "str", "image": "bytes", "text": "str", "label": "int"}
"""MDS encodings; `image` is a JPEG or PNG file, `label` the text-hash key of `text`."""
CLASS_COLUMN = {"class_id": "int"}
"""Present when the source has classes: an index into classes.json."""

INDEX_FILE = "index.json"
TOKENIZER_FILE = "tokenizer.json"
CLASSES_FILE = "classes.json"


@dataclass(frozen=True)
class Pair:
    """An image and its raw description, before any prompt template."""

    uid: str
    """Names the image in messages and decides its split; unique within a source."""
    image: bytes
    text: str
    class_id: int | None = None


def read_index(folder: str | Path, *, field: str) -> list[dict[str, Any]]:
    """Returns the shards listed in a folder's index.json.

    Raises UserError, naming `field`, when the folder is missing or holds no pairs as MDS shards.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{field} = {str(folder)!r} is not a folder; give a folder of MDS shards")
    path = folder / INDEX_FILE
    if not path.is_file():
        below = sorted(index.parent.name for index in folder.glob(f"*/{INDEX_FILE}"))
        hint = f"; did you mean {str(folder / below[0])!r}?" if below else ""
        raise UserError(f"{field} = {str(folder)!r} has no {INDEX_FILE}: not MDS shards{hint}")
    try:
        shards: list[dict[str, Any]] = json.loads(path.read_bytes())["shards"]
        columns = set(shards[0]["column_names"])
    except (ValueError, LookupError, TypeError) as error:
        raise UserError(f"{field}: {path} is not an index of MDS shards ({error!r})") from error
    if missing := sorted(COLUMNS.keys() - columns):
        raise UserError(
            f"{field} = {str(folder)!r} has the columns {sorted(columns)}, without {missing}"
        )
    return shards


def data_fingerprint(folder: str | Path) -> str:
    """SHA-256 (hex) over columns, sizes and hashes of all shards, as index.json lists them."""
    keys = ("column_names", "column_encodings", "samples", "raw_data")
    content = [[shard[key] for key in keys] for shard in read_index(folder, field="path")]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read_class_names(folder: str | Path) -> tuple[str, ...]:
    """Returns the names `class_id` indexes; UserError when the shards have no classes."""
    path = Path(folder) / CLASSES_FILE
    if not path.is_file():
        raise UserError(f"{str(folder)!r} has no {CLASSES_FILE}: its pairs belong to no classes")
    return tuple(json.loads(path.read_bytes()))
