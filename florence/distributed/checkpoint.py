"""Saves and restores the whole training state of an engine, atomically.

A checkpoint is one folder `step-00000400`. It is written under a temporary name and renamed when
every rank has finished, so a folder with a final name is always complete.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

from florence.distributed.collectives import barrier, broadcast_object, is_main
from florence.distributed.engine import Engine

_NAME = re.compile(r"^step-(\d{8})$")
_PARTIAL = "partial-"


def save_checkpoint(
    engine: Engine, folder: Path, *, step: int, state: dict[str, Any], keep: int
) -> Path:
    """Writes `folder/step-<step>` from all ranks, then removes all but the newest `keep`.

    `state` holds plain numbers, strings, lists and dicts, equal on every rank.
    """
    final = folder / f"step-{step:08d}"
    partial = folder / f"{_PARTIAL}{final.name}"
    if is_main():
        _remove_partial(folder)
        shutil.rmtree(final, ignore_errors=True)
    barrier()
    engine.save_checkpoint(str(folder), tag=partial.name, client_state=state, save_latest=False)
    barrier()
    if is_main():
        partial.rename(final)
        for old in list_checkpoints(folder)[:-keep]:
            shutil.rmtree(old)
    barrier()
    return final


def load_checkpoint(engine: Engine, folder: Path) -> dict[str, Any] | None:
    """Restores the newest checkpoint into the engine and returns its `state`; None if none is."""
    found = [path.name for path in list_checkpoints(folder)] if is_main() else []
    names = broadcast_object(found)
    if not names:
        return None
    _, state = engine.load_checkpoint(str(folder), tag=names[-1])
    return dict(state)


def list_checkpoints(folder: Path) -> list[Path]:
    """Returns the complete checkpoints of a folder, oldest first."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if _NAME.match(path.name))


def _remove_partial(folder: Path) -> None:
    for path in folder.glob(f"{_PARTIAL}*"):
        shutil.rmtree(path)
