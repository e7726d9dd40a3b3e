"""Curation: a source -> image files with captions -> training and validation shards.

    <output>/source  train  val  curation.json

The output appears under its name only when it is whole. Curating the same thing again keeps it.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from operator import attrgetter
from pathlib import Path
from typing import Any

from streaming import MDSWriter

from florence.config.run import CurateRun
from florence.data.importers.digits import CLASS_NAMES, read_pairs, write_digits
from florence.data.labels import TextTable
from florence.data.prompts import PROMPT_TEMPLATES
from florence.data.schema import (
    CLASS_COLUMN,
    CLASSES_FILE,
    COLUMNS,
    TOKENIZER_FILE,
    Pair,
    data_fingerprint,
)
from florence.data.tokenizer import train_tokenizer
from florence.util.errors import UserError

SPLITS = ("train", "val")
RECORD_FILE = "curation.json"
FORMAT = 1
"""To be raised when the same settings give other shards than before."""


def curate(run: CurateRun) -> dict[str, int | str]:
    """Writes the shards of a run unless they are there already; returns counts and fingerprints.

    Raises UserError when `output` is taken by anything but the same curation.
    """
    output = Path(run.output)
    if not any(output.glob("*")):
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as folder:
            built = Path(folder) / "built"
            _build(run, built)
            built.rename(output)
    return _summary(run, output)


def write_shards(
    folder: Path,
    pairs: Iterable[Pair],
    *,
    table: TextTable,
    class_names: Sequence[str] | None,
    shard_bytes: int = 1 << 26,
) -> None:
    """Writes pairs as MDS shards with xxh64 hashes; with classes every pair needs a `class_id`."""
    columns = COLUMNS if class_names is None else COLUMNS | CLASS_COLUMN
    with MDSWriter(
        out=str(folder), columns=columns, hashes=["xxh64"], size_limit=shard_bytes
    ) as writer:
        for pair in pairs:
            writer.write({**asdict(pair), "label": table.label(pair.text)})
    if class_names is not None:
        (folder / CLASSES_FILE).write_text(json.dumps(class_names))


def split_pairs(
    pairs: Iterable[Pair], *, val_fraction: float, seed: int
) -> tuple[list[Pair], list[Pair]]:
    """Returns training and validation pairs, every class divided in the same proportion.

    Which side a pair falls on depends on its uid and the seed, not on the order of the pairs.
    """
    classes: dict[int | None, list[Pair]] = defaultdict(list)
    for pair in pairs:
        classes[pair.class_id].append(pair)
    train, val = [], []
    for members in classes.values():
        members.sort(key=lambda pair: _draw(pair.uid, seed=seed))
        held_out = round(val_fraction * len(members))
        val += members[:held_out]
        train += members[held_out:]
    by_uid = attrgetter("uid")
    return sorted(train, key=by_uid), sorted(val, key=by_uid)


def _build(run: CurateRun, folder: Path) -> None:
    write_digits(run.source, folder / "source")
    train, val = split_pairs(
        read_pairs(folder / "source"), val_fraction=run.val_fraction, seed=run.seed
    )
    texts = [pair.text for pair in train]
    prompts = [template.format(name) for template in PROMPT_TEMPLATES for name in CLASS_NAMES]
    tokenizer = train_tokenizer([*texts, *prompts], vocab_size=run.vocab_size)
    table = TextTable()
    for name, pairs in zip(SPLITS, (train, val), strict=True):
        write_shards(folder / name, pairs, table=table, class_names=CLASS_NAMES)
        tokenizer.save(str(folder / name / TOKENIZER_FILE))
    counts = {
        "train_pairs": len(train),
        "val_pairs": len(val),
        "unique_texts": len(table),
        "vocab_size": tokenizer.get_vocab_size(),
    }
    record = {"settings": _settings(run), "counts": counts}
    (folder / RECORD_FILE).write_text(json.dumps(record, indent=2))


def _summary(run: CurateRun, output: Path) -> dict[str, int | str]:
    try:
        record = json.loads((output / RECORD_FILE).read_bytes())
    except (OSError, ValueError):
        record = {}
    if record.get("settings") != _settings(run):
        raise UserError(
            f"output = {run.output!r} exists and does not come from this run's settings; "
            f"remove it or name another folder"
        )
    fingerprints = {f"{name}_fingerprint": data_fingerprint(output / name) for name in SPLITS}
    return record["counts"] | fingerprints


def _settings(run: CurateRun) -> dict[str, Any]:
    """Returns everything the written files depend on."""
    fields = {"source", "seed", "val_fraction", "vocab_size"}
    return {"format": FORMAT, **run.model_dump(mode="json", include=fields)}


def _draw(uid: str, *, seed: int) -> bytes:
    return hashlib.blake2b(f"{seed}/{uid}".encode(), digest_size=8).digest()
