"""What containers print: kept per pod, container and restart, and served like a kubelet does."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from threading import Condition, Event, Lock
from typing import NamedTuple

from tests.apiserver.errors import ApiError, Object
from tests.apiserver.messages import Request
from tests.apiserver.store import Change

POLL_SECONDS = 0.5
COALESCE_SECONDS = 0.03
"""Pause between two chunks of a followed log; without it, every line would wake every follower."""


class LogLine(NamedTuple):
    """One line, with its newline unless the container ended without one."""

    time: float
    text: bytes


class ContainerLog:
    """The output of one run of a container."""

    def __init__(self) -> None:
        self._lines: list[LogLine] = []
        self._ended = False
        self._changed = Condition()

    def write(self, lines: Iterable[bytes]) -> None:
        """Adds lines; only the very last of a run may lack its newline."""
        now = round(time.time(), 6)  # as it is printed, so that sinceTime finds it again
        with self._changed:
            self._lines.extend(LogLine(now, line) for line in lines)
            self._changed.notify_all()

    def end(self) -> None:
        """Marks the end of the run, which ends the streams that follow it."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def after(self, index: int, *, timeout: float) -> list[LogLine] | None:
        """Returns the lines from `index` on, waiting up to `timeout` s; None at the very end."""
        with self._changed:
            if len(self._lines) <= index and not self._ended:
                self._changed.wait(timeout)
            if len(self._lines) <= index and self._ended:
                return None
            return self._lines[index:]

    def start(self, *, tail: int | None, since: float | None) -> int:
        """Returns the index of the first line that is wanted."""
        with self._changed:
            index = 0
            if since is not None:
                index = bisect_left(self._lines, since, key=lambda line: line.time)
            return index if tail is None else max(index, len(self._lines) - tail)

    def last_words(self, size: int) -> str:
        """Returns the end of the log, at most `size` bytes of it."""
        with self._changed:
            return b"".join(line.text for line in self._lines)[-size:].decode(errors="replace")


@dataclass(frozen=True)
class LogOptions:
    """The query of a log request."""

    container: str | None = None
    follow: bool = False
    previous: bool = False
    timestamps: bool = False
    tail: int | None = None
    since: float | None = None
    limit_bytes: int | None = None

    @classmethod
    def of_request(cls, request: Request) -> LogOptions:
        """Reads the parameters of a log request; ApiError 400 for a number or time that is none."""
        since = None
        if (seconds := request.number("sinceSeconds")) is not None:
            since = time.time() - seconds
        elif text := request.query.get("sinceTime"):
            try:
                since = datetime.fromisoformat(text).timestamp()
            except ValueError as error:
                raise ApiError(400, f"sinceTime: {error}") from error
        return cls(
            container=request.query.get("container"),
            follow=request.flag("follow"),
            previous=request.flag("previous"),
            timestamps=request.flag("timestamps"),
            tail=request.number("tailLines"),
            since=since,
            limit_bytes=request.number("limitBytes"),
        )


class LogBook:
    """The logs of all pods."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._runs: dict[tuple[str, str], list[ContainerLog]] = defaultdict(list)

    def open(self, pod: Object, container: str) -> ContainerLog:
        """Begins the log of one more run of a container."""
        log = ContainerLog()
        with self._lock:
            self._runs[pod["metadata"]["uid"], container].append(log)
        return log

    def on_change(self, change: Change) -> None:
        """Forgets the logs of a pod that is deleted and ends the streams that follow them."""
        obj = change.entry.obj
        if obj["kind"] != "Pod" or change.type != "DELETED":
            return
        with self._lock:
            keys = [key for key in self._runs if key[0] == obj["metadata"]["uid"]]
            gone = [log for key in keys for log in self._runs.pop(key)]
        for log in gone:
            log.end()

    def read(self, pod: Object, options: LogOptions, closing: Event) -> Iterator[bytes] | None:
        """Returns the chunks of a container's log, None for a pod that is on no node yet.

        Raises ApiError 400 for a container that does not exist or has not started.
        """
        if not pod["spec"].get("nodeName"):
            return None
        container = _container(pod, options.container)
        with self._lock:
            runs = list(self._runs.get((pod["metadata"]["uid"], container), ()))
        name = pod["metadata"]["name"]
        if options.previous:
            if len(runs) < 2:
                why = f'previous terminated container "{container}" in pod "{name}" not found'
                raise ApiError(400, why)
            return _limit(_stream(runs[-2], options, closing), options.limit_bytes)
        if not runs:
            why = f'container "{container}" in pod "{name}" is waiting to start'
            raise ApiError(400, f"{why}: {_waiting_reason(pod, container)}")
        return _limit(_stream(runs[-1], options, closing), options.limit_bytes)


def _container(pod: Object, wanted: str | None) -> str:
    groups = (pod["spec"]["containers"], pod["spec"].get("initContainers") or ())
    names: list[str] = [container["name"] for group in groups for container in group]
    name = pod["metadata"]["name"]
    if wanted is None:
        if len(pod["spec"]["containers"]) > 1:
            why = f"a container name must be specified for pod {name}"
            raise ApiError(400, f"{why}, choose one of: [{' '.join(names)}]")
        return names[0]
    if wanted not in names:
        raise ApiError(400, f"container {wanted} is not valid for pod {name}")
    return wanted


def _waiting_reason(pod: Object, container: str) -> str:
    for status in pod["status"].get("containerStatuses") or ():
        if status["name"] == container and "waiting" in status["state"]:
            return str(status["state"]["waiting"]["reason"])
    return "ContainerCreating"


def _stream(log: ContainerLog, options: LogOptions, closing: Event) -> Iterator[bytes]:
    """Yields chunks; an empty one says that there is nothing new, for the transport to look up."""
    index = log.start(tail=options.tail, since=options.since)
    while not closing.is_set():
        lines = log.after(index, timeout=POLL_SECONDS if options.follow else 0)
        if lines is None or not (lines or options.follow):
            return
        index += len(lines)
        if options.timestamps:
            yield b"".join(_stamp(line.time) + line.text for line in lines)
        else:
            yield b"".join(line.text for line in lines)
        if options.follow and lines:
            time.sleep(COALESCE_SECONDS)


def _stamp(seconds: float) -> bytes:
    text = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")
    return f"{text}000Z ".encode()


def _limit(chunks: Iterator[bytes], limit: int | None) -> Iterator[bytes]:
    for chunk in chunks:
        if limit is not None and len(chunk) >= limit:
            yield chunk[:limit]
            return
        yield chunk
        if limit is not None:
            limit -= len(chunk)
