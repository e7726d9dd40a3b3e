"""What a run records about where it comes from: its configuration, its data and its code."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from florence import __version__
from florence.config.run import BaseRun
from florence.tracking import names

_PACKAGE = Path(__file__).resolve().parents[1]


def lineage_tags(run: BaseRun, *, data_fingerprints: Mapping[str, str]) -> dict[str, str]:
    """Returns the tags that link a run, and later its model versions, to job, data and code."""
    return {
        names.JOB: run.job_name,
        names.FINGERPRINT: run.fingerprint,
        names.VERSION: __version__,
        **{f"{names.DATA_FINGERPRINT}.{name}": value for name, value in data_fingerprints.items()},
        **_git_tags(),
    }


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Returns `{"optim.lr": "0.001", "evaluation.0.path": "data/val", ...}` of a dumped run."""
    flat: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            value = {str(index): item for index, item in enumerate(value)}
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value if isinstance(value, str) else json.dumps(value)
    return flat


def _git_tags() -> dict[str, str]:
    """Returns the code's commit and whether it was changed since; nothing without a repository."""
    try:
        _git("ls-files", "--error-unmatch", "__init__.py")  # not somebody else's repository
        commit = _git("rev-parse", "HEAD")
        changes = _git("status", "--porcelain", "--", ".")
    except (OSError, subprocess.SubprocessError):
        return {}
    return {names.GIT_COMMIT: commit, names.GIT_DIRTY: json.dumps(bool(changes))}


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(_PACKAGE), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    return done.stdout.strip()
