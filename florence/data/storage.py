"""Copies the small files beside remote shards to this machine."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from florence.util.errors import InfrastructureError, UserError


def cache_folder(cache_dir: str | Path, remote: str) -> Path:
    """Returns the folder under `cache_dir` that belongs to one remote folder."""
    digest = hashlib.sha256(remote.rstrip("/").encode()).hexdigest()[:16]
    return Path(cache_dir) / digest


def fetch(remote: str, name: str, folder: Path, *, field: str) -> Path:
    """Copies the file `name` of a remote folder into `folder`, replacing an older copy.

    Any number of processes may do so at once. Raises UserError, naming `field`, when there is no
    such file, InfrastructureError when it cannot be reached.
    """
    # Importing Streaming takes seconds, and a model that is served never fetches anything.
    from streaming.base.storage.download import CloudDownloader

    source, target = f"{remote.rstrip('/')}/{name}", folder / name
    partial = folder / f".{name}.{os.getpid()}"
    partial.unlink(missing_ok=True)  # a file that exists would be taken for the download
    try:
        CloudDownloader.direct_download(source, str(partial))
        partial.replace(target)
    except FileNotFoundError as error:
        raise UserError(f"{field} = {remote!r} has no {name}") from error
    except Exception as error:
        raise InfrastructureError(f"{field}: {source} could not be fetched: {error}") from error
    return target
