"""What goes wrong on purpose: refused, slow, lost and cut answers, at random but repeatably."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from threading import Lock


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong with the requests it matches.

    `verb` is that of RBAC (get, list, watch, create, update, patch, delete, deletecollection),
    `path` is searched in path and query: `path=r"/log\\?.*follow"` means followed logs.
    """

    verb: str = ".*"
    path: str = ""
    rate: float = 1.0
    """The part of the matching requests that it strikes."""
    times: int | None = None
    """How many requests it strikes in all; None: no end."""
    status: int | None = None
    """Answer with this error; 410 is what a watch or continue token gets that has expired."""
    retry_after: int | None = None
    """Seconds in the Retry-After header."""
    delay: float = 0.0
    """Seconds before the answer begins."""
    chunk_delay: float = 0.0
    """Seconds before each chunk of a stream."""
    reset: bool = False
    """Reset the connection in place of the answer."""
    lose_answer: bool = False
    """Do what is asked, then reset the connection: the client cannot know."""
    cut_after: int | None = None
    """Break the connection after this many bytes of the body."""
    end_after: int | None = None
    """End a stream as if it were complete after this many bytes."""


class Faults:
    """The faults in force, tried in the order they were added; the first that strikes counts."""

    def __init__(self, *, seed: int = 0) -> None:
        self._random = random.Random(seed)
        self._lock = Lock()
        self._faults: list[Fault] = []
        self._struck: dict[int, int] = {}

    def add(self, *faults: Fault) -> None:
        """Puts faults in force."""
        with self._lock:
            self._faults.extend(faults)

    def clear(self) -> None:
        """Ends all faults."""
        with self._lock:
            self._faults.clear()
            self._struck.clear()

    def struck(self) -> int:
        """Returns how many requests were struck since the last clear."""
        return sum(self._struck.values())

    def pick(self, verb: str, path: str) -> Fault | None:
        """Returns the fault that strikes a request, and counts it."""
        with self._lock:
            for index, fault in enumerate(self._faults):
                if self._strikes(index, fault, verb, path):
                    self._struck[index] = self._struck.get(index, 0) + 1
                    return fault
        return None

    def _strikes(self, index: int, fault: Fault, verb: str, path: str) -> bool:
        if fault.times is not None and self._struck.get(index, 0) >= fault.times:
            return False
        if not re.fullmatch(fault.verb, verb) or not re.search(fault.path, path):
            return False
        return self._random.random() < fault.rate
