"""Reads the log of one pod, over lost connections, without losing or repeating a line.

Every line is asked for with its time. After a lost connection a log is opened again from the
second of the last line (the API server cuts `sinceTime` to seconds), and what was seen of that
second is left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import urllib3

from florence.launch.backend import LogLine
from florence.launch.kubernetes_client import PATIENCE, Cluster, RefusedError
from florence.launch.manifest import CONTAINER

_SILENCE = 60.0  # after which a stream is opened again, should its connection be dead
_BLOCK_BYTES = 1 << 16


class PodLog:
    """The log of one run of one pod's container: knows which lines were read."""

    def __init__(self, cluster: Cluster, pod: str, *, previous: bool = False) -> None:
        self._cluster = cluster
        self._pod = pod
        self._previous = previous
        self._last = b""
        self._recent: Counter[bytes] = Counter()
        """The lines, with their times, of the second of the last one."""
        self._knows_part = False
        """Whether lines of that second came before the first one read."""
        self._seeking = False
        self._response: Any = None
        self.rest = b""
        """What came after the last newline of the last read, with its time."""

    def open(self, *, follow: bool, tail: int | None = None) -> None:
        """Begins to read, after the last line read; RefusedError if there is no log."""
        query: dict[str, Any] = {"container": CONTAINER, "timestamps": "true"}
        if follow:
            query["follow"] = "true"
        if self._previous:
            query["previous"] = "true"
        if self._last:
            stamp = self._last.decode()
            query["sinceTime"] = stamp[:19] + ("Z" if stamp.endswith("Z") else stamp[-6:])
        elif tail is not None:
            query["tailLines"] = tail
            self._knows_part = True
        self._seeking = self._knows_part and bool(self._last)
        self._response = self._cluster.open_log(self._pod, query, silence=_SILENCE)

    def lines(self) -> Iterator[list[str]]:
        """Yields the new lines of what was opened; urllib3's HTTPError if it breaks off."""
        again = self._recent.copy()
        response, rest = self._response, b""
        self.rest = b""
        try:
            for chunk in response.stream(_BLOCK_BYTES):
                *lines, rest = (rest + chunk).split(b"\n")
                if new := [text for line in lines if (text := self._take(line, again)) is not None]:
                    yield new
            self.rest = b"" if again[rest] else rest
        finally:
            response.close()

    def turn_to_previous(self) -> None:
        """Goes on in the log of the container before the last restart: it has been that one's."""
        self._previous = True

    def interrupt(self) -> None:
        """Makes a read that waits in another thread end."""
        try:
            self._response.shutdown()
        except (AttributeError, OSError, RuntimeError, ValueError):  # it has ended by itself
            return

    def forget_rest(self) -> None:
        """Gives up what was opened, and a last line that may be cut off."""
        self.rest = b""
        if self._response is not None:
            self._response.close()

    def take_rest(self) -> list[str]:
        """Returns the last line of a log that ends without a newline."""
        rest, self.rest = self.rest, b""
        text = self._take(rest, Counter()) if rest else None
        return [] if text is None else [text]

    def _take(self, line: bytes, again: Counter[bytes]) -> str | None:
        """Returns the text of a line, None for one that was read before."""
        if again and again[line]:
            again[line] -= 1
            self._seeking = False
            return None
        stamp, _, text = line.partition(b" ")
        if stamp[10:11] != b"T":  # the kubelet's own words, such as why it has no log
            return line.decode(errors="replace")
        if stamp[:19] > self._last[:19]:
            self._seeking = False
            self._knows_part = self._knows_part and not self._last
            self._recent.clear()
            self._last = stamp
        if self._seeking:  # from before the tail that was asked for
            return None
        self._recent[line] += 1
        return text.decode(errors="replace").rstrip("\r")


def read_log(
    cluster: Cluster, pod: str, *, tail: int | None = None, previous: bool = False
) -> Iterator[LogLine]:
    """Yields the lines of a pod's container so far; none if it has not started or is gone."""
    log = PodLog(cluster, pod, previous=previous)
    for batch in read_so_far(cluster, log, tail=tail):
        yield from (LogLine(pod, line) for line in batch)
    yield from (LogLine(pod, line) for line in log.take_rest())


def read_so_far(
    cluster: Cluster,
    log: PodLog,
    *,
    tail: int | None = None,
    is_valid: Callable[[], bool] = lambda: True,
) -> Iterator[list[str]]:
    """Yields the new lines of a log up to its present end; an unfinished one is left in `rest`.

    `is_valid`, asked once the log is open, tells whether it is still that of the run meant.
    """
    retries = cluster.retries(PATIENCE, what="get pods/log")
    unfinished = b""
    while True:
        try:
            log.open(follow=False, tail=tail)
            if not is_valid():
                return log.forget_rest()
            for batch in log.lines():
                retries.succeeded()
                yield batch
        except urllib3.exceptions.HTTPError as error:
            retries.pause(str(error))
        except RefusedError as error:
            if error.code == 400:  # there is no such run
                return log.forget_rest()
            if error.code == 404:
                return
            raise
        else:
            if log.rest == unfinished:  # else it may be a line cut off with the answer
                return
            unfinished = log.rest
