"""Follows the logs of all pods of a job: one thread per pod, and one that looks for new pods.

What follows the end of a stream is decided by the pod: a stream that only looks complete is opened
again, and a container that has ended is read once more without following.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from queue import Full, Queue
from threading import Event, Thread
from typing import NamedTuple

import urllib3

from florence.launch.backend import LogLine
from florence.launch.kubernetes_client import Cluster, RefusedError
from florence.launch.kubernetes_explain import container_status, observe
from florence.launch.kubernetes_podlog import PodLog, read_so_far
from florence.launch.kubernetes_resources import PODS
from florence.launch.manifest import Manifest

OUTAGE = 600.0
"""Seconds for which following outlasts a cluster that does not answer."""
_BATCHES = 1000


class Seen(NamedTuple):
    """A look at a job: its pods, and whether none of them will print any more."""

    pods: Sequence[Manifest]
    is_last: bool


def follow_logs(
    cluster: Cluster, look: Callable[[], Seen], *, tail: int | None, poll_seconds: float
) -> Iterator[LogLine]:
    """Yields the lines of all pods as they come, until `look` says that the job has ended.

    The lines of one pod are in their order; each is yielded once.
    """
    following = _Following(cluster, look, tail=tail, poll_seconds=poll_seconds)
    following.start()
    try:
        while (item := following.out.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield from item
    finally:
        following.stop()


_Out = Queue["list[LogLine] | BaseException | None"]


class _Following(Thread):
    """Starts a follower for every pod that has started, and ends when all have ended."""

    def __init__(
        self, cluster: Cluster, look: Callable[[], Seen], *, tail: int | None, poll_seconds: float
    ) -> None:
        super().__init__(daemon=True)
        self.out: _Out = Queue(_BATCHES)
        self._cluster = cluster
        self._look = look
        self._tail = tail
        self._poll_seconds = poll_seconds
        self._followers: dict[str, _Follower] = {}
        self._stopped = Event()

    def run(self) -> None:
        """Looks at the pods until the job has ended; what goes wrong is raised by the reader."""
        try:
            while not self._stopped.is_set():
                seen = self._look()
                self._follow(seen.pods)
                if seen.is_last:
                    break
                self._stopped.wait(self._poll_seconds)
        except Exception as error:
            put(self.out, error, self._stopped)
        for follower in self._followers.values():
            follower.finish()
        for follower in self._followers.values():
            follower.join()
        put(self.out, None, self._stopped)

    def stop(self) -> None:
        """Ends everything without reading on; nobody takes the lines any more."""
        self._stopped.set()
        for follower in list(self._followers.values()):
            follower.finish()

    def _follow(self, pods: Sequence[Manifest]) -> None:
        for pod in pods:
            uid = pod["metadata"]["uid"]
            if uid not in self._followers and _has_started(container_status(pod)):
                self._followers[uid] = _Follower(
                    self._cluster,
                    pod,
                    out=self.out,
                    tail=self._tail,
                    poll_seconds=self._poll_seconds,
                    stopped=self._stopped,
                )
                self._followers[uid].start()


class _Follower(Thread):
    """Follows one pod, over restarts of its container, until the pod has ended or is gone."""

    def __init__(
        self,
        cluster: Cluster,
        pod: Manifest,
        *,
        out: _Out,
        tail: int | None,
        poll_seconds: float,
        stopped: Event,
    ) -> None:
        super().__init__(daemon=True)
        self._cluster = cluster
        self._name: str = pod["metadata"]["name"]
        self._uid: str = pod["metadata"]["uid"]
        self._first = container_status(pod)
        self._run_id = _run_id(self._first)
        self._log = PodLog(cluster, self._name)
        self._out = out
        self._tail = tail
        self._poll_seconds = poll_seconds
        self._stopped = stopped
        self._finishing = Event()

    def finish(self) -> None:
        """Has it read what there is and end; to be called from another thread."""
        self._finishing.set()
        self._log.interrupt()

    def run(self) -> None:
        """Follows; what goes wrong is raised where the lines are read."""
        try:
            self._follow()
        except Exception as error:
            put(self._out, error, self._stopped)

    def _follow(self) -> None:
        if self._tail is not None:
            self._read_tail(self._tail)
        elif self._first.get("restartCount"):
            self._turn_to_run(self._first)
        retries = self._cluster.retries(OUTAGE, what="get pods/log", sleep=self._finishing.wait)
        while not self._stopped.is_set():
            cause = self._stream(retries.succeeded)
            pod = self._current()
            if pod is None:
                return self._emit(self._log.take_rest())
            own = container_status(pod)
            if own and _run_id(own) != self._run_id:
                self._turn_to_run(own)
            elif self._finishing.is_set() or "running" not in own.get("state", {}):
                self._read_to_the_end(run_id=self._run_id)
                ends = self._finishing.is_set() or not observe(pod).is_active
                if ends and self._is_run(self._run_id):
                    return None
                self._finishing.wait(self._poll_seconds)  # until it is started again
            else:
                retries.pause(cause)
        return None

    def _read_tail(self, tail: int) -> None:
        """Reads the last lines; one more, not shown, so that it is known where to go on."""
        batches = read_so_far(self._cluster, self._log, tail=tail + 1)
        lines = [line for batch in batches for line in batch]
        self._emit(lines[1:] if len(lines) > tail else lines)

    def _stream(self, on_lines: Callable[[], None]) -> str:
        """Passes on lines until the stream ends, and returns why it did."""
        if self._finishing.is_set():
            return ""
        try:
            self._log.open(follow=True)
            # What was opened could be the next run's, or too late to be interrupted.
            if not self._is_run(self._run_id) or self._finishing.is_set():
                self._log.forget_rest()
                return ""
            for batch in self._log.lines():
                on_lines()
                self._emit(batch)
        except (urllib3.exceptions.HTTPError, RefusedError) as error:
            if isinstance(error, RefusedError) and error.code not in (400, 404):
                raise
            return str(error)
        return "the stream ends"

    def _turn_to_run(self, own: Manifest) -> None:
        """Reads what is left of the run that has ended and turns to the newest."""
        if "waiting" not in own["state"]:  # else the newest is what `previous` means
            self._log.turn_to_previous()
            self._read_to_the_end(run_id=_run_id(own))
        self._run_id = _run_id(own)
        self._log = PodLog(self._cluster, self._name)

    def _read_to_the_end(self, *, run_id: str) -> None:
        """Reads what is left of a log that grows no more, as long as this is the newest run."""

        def is_valid() -> bool:
            return self._is_run(run_id)

        for batch in read_so_far(self._cluster, self._log, is_valid=is_valid):
            self._emit(batch)
        self._emit(self._log.take_rest())

    def _is_run(self, run_id: str) -> bool:
        pod = self._current()
        own = {} if pod is None else container_status(pod)
        return not own or _run_id(own) == run_id  # an evicted pod has a log, but no status of it

    def _current(self) -> Manifest | None:
        pod = self._cluster.find(PODS, self._name, patience=OUTAGE)
        if pod is None or pod["metadata"]["uid"] != self._uid:
            return None
        return pod

    def _emit(self, lines: list[str]) -> None:
        if lines:
            put(self._out, [LogLine(self._name, line) for line in lines], self._stopped)


def _run_id(own: Manifest) -> str:
    """Returns what tells the container whose log is served from the one before it."""
    if own.get("containerID"):
        return str(own["containerID"])
    return str(own.get("restartCount", 0) - ("waiting" in own.get("state", {})))


def _has_started(own: Manifest) -> bool:
    states = own.get("state", {}).keys() | (own.get("lastState") or {}).keys()
    return not states.isdisjoint({"running", "terminated"})


def put(out: _Out, item: list[LogLine] | BaseException | None, stopped: Event) -> None:
    """Hands an item over, waiting for room unless nobody reads any more."""
    while not stopped.is_set():
        try:
            return out.put(item, timeout=0.5)
        except Full:
            continue
    return None
