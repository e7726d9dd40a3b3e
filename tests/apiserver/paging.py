"""Lists in pages: all pages of a list come from the snapshot its first page was taken from."""

from __future__ import annotations

import secrets
from collections import OrderedDict
from threading import Lock
from typing import NamedTuple

from tests.apiserver.errors import expired
from tests.apiserver.store import Entry, Snapshot, Store

_KEPT = 1000


class Page(NamedTuple):
    """One page of a list; `token` leads to the next, empty on the last."""

    revision: int
    entries: list[Entry]
    token: str
    left: int
    """How many entries come after this page."""


class Pages:
    """Remembers what is left of the lists that clients have begun."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = Lock()
        self._left: OrderedDict[str, Snapshot] = OrderedDict()

    def first(self, whole: Snapshot, limit: int | None) -> Page:
        """Returns the first page of a list."""
        entries, rest = whole.entries[:limit], whole.entries[limit:] if limit else []
        token = self._keep(Snapshot(whole.revision, rest)) if rest else ""
        return Page(whole.revision, entries, token, len(rest))

    def next(self, kind: str, token: str, limit: int | None) -> Page:
        """Returns a later page, any number of times; ApiError 410 if its list is forgotten."""
        rest = self._left.get(token)
        if rest is None or not self._store.remembers(kind, rest.revision):
            raise expired(
                "The provided continue parameter is too old to display a consistent list result. "
                "You must start a new list without the continue parameter."
            )
        return self.first(rest, limit)

    def _keep(self, rest: Snapshot) -> str:
        token = secrets.token_urlsafe(16)
        with self._lock:
            self._left[token] = rest
            if len(self._left) > _KEPT:
                self._left.popitem(last=False)
        return token
