"""Reads the log files of a local job's pods, from any process, while they are being written."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from florence.launch.backend import LogLine
from florence.launch.local_state import JobDirectory

_POLL_SECONDS = 0.1
_BLOCK_BYTES = 1 << 16


def read_logs(directory: JobDirectory, tail: int | None) -> Iterator[LogLine]:
    """Yields the lines written so far, pod by pod."""
    logs = _Logs(directory, tail)
    yield from logs.read()
    yield from logs.unfinished()


def follow_logs(directory: JobDirectory, tail: int | None) -> Iterator[LogLine]:
    """Yields lines as they are written, until the job is finished and all are read."""
    logs = _Logs(directory, tail)
    attempt = _attempt(directory)
    # Asked before reading, so that nothing written before the end is missed.
    while directory.is_live() and _attempt(directory) == attempt:
        yield from logs.read()
        time.sleep(_POLL_SECONDS)
    yield from logs.read()
    yield from logs.unfinished()


def _attempt(directory: JobDirectory) -> str | None:
    try:
        return str(directory.read().job["metadata"]["uid"])
    except FileNotFoundError:  # the job has been deleted
        return None


class _Logs:
    """The log files of a job, each with what has been read of its last line."""

    def __init__(self, directory: JobDirectory, tail: int | None) -> None:
        self._folder = directory.logs
        self._tail = tail
        self._files: dict[str, BinaryIO] = {}
        self._rest: dict[str, bytes] = {}

    def read(self) -> Iterator[LogLine]:
        """Yields every line completed since the last call."""
        for path in sorted(self._folder.glob("*.log")):
            if path.stem not in self._files:
                self._files[path.stem] = _open(path, self._tail)
        for pod, file in self._files.items():
            while block := file.read(_BLOCK_BYTES):
                *lines, self._rest[pod] = (self._rest.get(pod, b"") + block).split(b"\n")
                yield from (_line(pod, line) for line in lines)

    def unfinished(self) -> Iterator[LogLine]:
        """Yields the last lines that have no newline."""
        yield from (_line(pod, rest) for pod, rest in self._rest.items() if rest)


def _line(pod: str, line: bytes) -> LogLine:
    return LogLine(pod, line.decode(errors="replace").rstrip("\r"))


def _open(path: Path, tail: int | None) -> BinaryIO:
    """Opens a log at the beginning of its last `tail` lines."""
    file = path.open("rb")
    if tail is None:
        return file
    position = end = file.seek(0, os.SEEK_END)
    last = b""
    while position and last.count(b"\n") <= tail:
        start = max(0, position - _BLOCK_BYTES)
        file.seek(start)
        last = file.read(position - start) + last
        position = start
    lines = last.splitlines(keepends=True)
    file.seek(end - sum(map(len, lines[len(lines) - tail :] if tail < len(lines) else lines)))
    return file
