"""The base of everything that acts on changes, as the controllers of a cluster do."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import Event, Thread
from typing import Self

from tests.apiserver.errors import Object
from tests.apiserver.server import ApiServer
from tests.apiserver.store import Change

_TICK_SECONDS = 0.1


class Follower:
    """Sees every change of some kinds in a thread of its own; a context manager."""

    kinds: tuple[str, ...] = ()

    def __init__(self, server: ApiServer) -> None:
        self.server = server
        self.store = server.store
        self._queue: SimpleQueue[Object] = SimpleQueue()
        self._stopped = Event()
        self._thread = Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self.store.subscribe(self._on_change)
        self.on_objects([obj for kind in self.kinds for obj in self.store.all(kind)])
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.store.unsubscribe(self._on_change)
        self._stopped.set()
        self._thread.join()
        self.on_stop()

    def on_objects(self, objects: Sequence[Object]) -> None:
        """Called with what has changed since the last call, every object in its last version."""
        raise NotImplementedError

    def on_tick(self) -> None:
        """Called about ten times a second."""

    def on_stop(self) -> None:
        """Called once at the end."""

    def _on_change(self, change: Change) -> None:
        if change.entry.obj["kind"] in self.kinds:
            self._queue.put(change.entry.obj)

    def _run(self) -> None:
        next_tick = time.monotonic()
        while not self._stopped.is_set():
            if changes := self._take():
                self.on_objects(list({_identity(change): change for change in changes}.values()))
            if time.monotonic() >= next_tick:
                self.on_tick()
                next_tick = time.monotonic() + _TICK_SECONDS

    def _take(self) -> list[Object]:
        """Returns the objects changed since the last call, waiting for the first of them."""
        changed = []
        with suppress(Empty):
            changed.append(self._queue.get(timeout=_TICK_SECONDS))
            while True:
                changed.append(self._queue.get_nowait())
        return changed


def _identity(obj: Object) -> str:
    return str(obj["metadata"]["uid"])
