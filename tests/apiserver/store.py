"""The objects of the server with their history: resource versions, watches, garbage collection.

Stored objects are never changed in place; read them freely and copy before changing.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from threading import Condition, RLock
from typing import Literal, NamedTuple

from tests.apiserver import objects
from tests.apiserver.errors import Object, already_exists, conflict, expired, not_found
from tests.apiserver.resources import BY_KIND, RESOURCES, Resource, crd

HISTORY = 100_000
"""How many changes of one kind are remembered for watches."""

Propagation = Literal["Background", "Foreground", "Orphan"]
"""Foreground is treated as Background: what is owned is gone before the answer either way."""


class Entry:
    """One version of an object, and its JSON: encoded once for all who list and watch it."""

    def __init__(self, obj: Object) -> None:
        self.obj = obj

    @cached_property
    def raw(self) -> bytes:
        """The object as compact JSON."""
        return json.dumps(self.obj, separators=(",", ":")).encode()


class Change(NamedTuple):
    """One step in the history of a kind; `previous` is None for a new object."""

    revision: int
    type: Literal["ADDED", "MODIFIED", "DELETED"]
    entry: Entry
    previous: Entry | None


class Changes(NamedTuple):
    """The history of a kind up to and including `revision`."""

    revision: int
    changes: list[Change]


class Snapshot(NamedTuple):
    """All objects of a kind as of one revision, ordered by namespace and name."""

    revision: int
    entries: list[Entry]


@dataclass(frozen=True)
class DeleteOptions:
    """What a delete asks for: `grace` in seconds, None for the object's own."""

    grace: int | None = None
    propagation: Propagation = "Background"
    uid: str | None = None
    resource_version: str | None = None
    dry_run: bool = False


_Key = tuple[str, str, str]
"""Kind, namespace, name."""


class Store:
    """Thread-safe storage of objects of every kind in the table."""

    def __init__(self) -> None:
        self._lock = RLock()
        self._revision = 0
        self._entries: dict[str, dict[tuple[str, str], Entry]] = {kind: {} for kind in BY_KIND}
        self._history: dict[str, list[Change]] = {kind: [] for kind in BY_KIND}
        self._forgotten = dict.fromkeys(BY_KIND, 0)
        self._changed = {kind: Condition(self._lock) for kind in BY_KIND}
        self._dependents: dict[str, set[_Key]] = defaultdict(set)
        self._uids: set[str] = set()
        self._listeners: list[Callable[[Change], None]] = []
        for name in ("default", "kube-system"):
            self.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        for resource in RESOURCES:
            if resource.custom:
                self.create(crd(resource))

    # Reading

    def get(self, kind: str, name: str, namespace: str = "default") -> Object:
        """Returns one object; ApiError 404 if there is none."""
        return self._entry(BY_KIND[kind], namespace, name).obj

    def find(self, kind: str, name: str, namespace: str = "default") -> Object | None:
        """Returns one object or None."""
        key = (namespace if BY_KIND[kind].namespaced else "", name)
        entry = self._entries[kind].get(key)
        return entry.obj if entry else None

    def snapshot(self, kind: str, namespace: str | None = None) -> Snapshot:
        """Returns the objects of a kind, of one namespace or of all."""
        with self._lock:
            keys = sorted(
                key for key in self._entries[kind] if namespace is None or key[0] == namespace
            )
            return Snapshot(self._revision, [self._entries[kind][key] for key in keys])

    def all(self, kind: str, namespace: str | None = None) -> list[Object]:
        """Returns the objects of a kind, of one namespace or of all."""
        return [entry.obj for entry in self.snapshot(kind, namespace).entries]

    def owned(self, kind: str, uid: str) -> list[Object]:
        """Returns the objects of a kind that name the one with this uid as their owner."""
        with self._lock:
            keys = sorted(key for key in self._dependents.get(uid, ()) if key[0] == kind)
            return [self._entries[kind][key[1:]].obj for key in keys]

    def changes(self, kind: str, since: int, *, timeout: float) -> Changes:
        """Returns the changes after a revision, waiting up to `timeout` seconds for the first.

        Raises ApiError 410 if the history since then is forgotten.
        """
        with self._lock:
            if not self._after(kind, since):
                self._changed[kind].wait(timeout)
            return Changes(self._revision, self._after(kind, since))

    def _after(self, kind: str, since: int) -> list[Change]:
        if since < self._forgotten[kind]:
            raise expired(f"too old resource version: {since} ({self._forgotten[kind]})")
        history = self._history[kind]
        return history[bisect_right(history, since, key=lambda change: change.revision) :]

    def remembers(self, kind: str, revision: int) -> bool:
        """Tells whether the state at a revision is still known."""
        return revision >= self._forgotten[kind]

    def compact(self) -> None:
        """Forgets the history: watches and continue tokens of older revisions get 410 then."""
        with self._lock:
            for kind in BY_KIND:
                self._history[kind].clear()
                self._forgotten[kind] = self._revision

    def subscribe(self, listener: Callable[[Change], None]) -> None:
        """Calls `listener` with every change from now on, under the store's lock: be brief."""
        with self._lock:
            self._listeners.append(listener)

    def unsubscribe(self, listener: Callable[[Change], None]) -> None:
        """Ends a subscription."""
        with self._lock:
            self._listeners.remove(listener)

    # Writing

    def create(self, obj: Object, *, namespace: str = "default", dry_run: bool = False) -> Entry:
        """Stores a new object; ApiError 404 without its namespace, 409 if the name is taken."""
        resource = BY_KIND[obj["kind"]]
        namespace = namespace if resource.namespaced else ""
        with self._lock:
            if namespace and ("", namespace) not in self._entries["Namespace"]:
                raise not_found("namespaces", namespace)
            obj = objects.initialise(resource, objects.named(obj, namespace))
            name = obj["metadata"]["name"]
            if (namespace, name) in self._entries[resource.kind]:
                raise already_exists(resource.qualified, name)
            return Entry(obj) if dry_run else self._put("ADDED", resource, obj, None)

    def update(
        self,
        kind: str,
        name: str,
        change: Callable[[Object], Object],
        *,
        namespace: str = "default",
        status_only: bool = False,
        dry_run: bool = False,
    ) -> Entry:
        """Stores what `change` makes of an object; a change of nothing is no new version."""
        resource = BY_KIND[kind]
        with self._lock:
            current = self._entry(resource, namespace, name)
            obj = objects.updated(
                resource, current.obj, change(current.obj), status_only=status_only
            )
            if obj == current.obj:
                return current
            if dry_run:
                return Entry(obj)
            entry = self._put("MODIFIED", resource, obj, current)
            if _ready_to_go(entry.obj):
                return self._remove(resource, entry)
            return entry

    def set_status(
        self, kind: str, name: str, status: Object, *, namespace: str = "default"
    ) -> Entry:
        """Merges fields into an object's status, as the controllers of a cluster do."""
        return self.update(
            kind,
            name,
            lambda obj: {**obj, "status": (obj.get("status") or {}) | status},
            namespace=namespace,
            status_only=BY_KIND[kind].status,
        )

    def delete(
        self,
        kind: str,
        name: str,
        *,
        namespace: str = "default",
        options: DeleteOptions | None = None,
    ) -> Entry:
        """Deletes an object, then what it owns; of a pod on a node it only asks its kubelet to.

        Returns the last version; with deletionTimestamp set, the object is still there.
        """
        resource, options = BY_KIND[kind], options or DeleteOptions()
        with self._lock:
            entry = self._entry(resource, namespace, name)
            _check_preconditions(resource, entry.obj, options)
            if options.dry_run:
                return entry
            if options.propagation == "Orphan":
                self._orphan(entry.obj["metadata"]["uid"])
            grace = _grace(entry.obj, options)
            if grace or entry.obj["metadata"].get("finalizers"):
                return self._mark_deleted(resource, entry, grace)
            return self._remove(resource, entry)

    def event(
        self, about: Object, *, type: str, reason: str, message: str, component: str = "kubelet"
    ) -> None:
        """Records an Event about an object."""
        obj = objects.event(about, type=type, reason=reason, message=message, component=component)
        self.create(obj, namespace=about["metadata"]["namespace"])

    def _entry(self, resource: Resource, namespace: str, name: str) -> Entry:
        entry = self._entries[resource.kind].get((namespace if resource.namespaced else "", name))
        if entry is None:
            raise not_found(resource.qualified, name)
        return entry

    def _put(
        self,
        type: Literal["ADDED", "MODIFIED"],
        resource: Resource,
        obj: Object,
        previous: Entry | None,
    ) -> Entry:
        entry = self._versioned(obj)
        key = _key(resource.kind, obj)
        self._entries[resource.kind][key[1:]] = entry
        self._uids.add(obj["metadata"]["uid"])
        for owner in obj["metadata"].get("ownerReferences") or ():
            self._dependents[owner["uid"]].add(key)
        self._record(resource.kind, Change(self._revision, type, entry, previous))
        return entry

    def _versioned(self, obj: Object) -> Entry:
        self._revision += 1
        return Entry(
            {**obj, "metadata": {**obj["metadata"], "resourceVersion": str(self._revision)}}
        )

    def _record(self, kind: str, change: Change) -> None:
        history = self._history[kind]
        history.append(change)
        if len(history) > HISTORY:
            self._forgotten[kind] = history[HISTORY // 2].revision
            del history[: HISTORY // 2 + 1]
        self._changed[kind].notify_all()
        for listener in self._listeners:
            listener(change)

    def _mark_deleted(self, resource: Resource, entry: Entry, grace: int) -> Entry:
        if "deletionTimestamp" in entry.obj["metadata"]:
            return entry
        metadata = entry.obj["metadata"] | {
            "deletionTimestamp": objects.timestamp(),
            "deletionGracePeriodSeconds": grace,
        }
        return self._put("MODIFIED", resource, {**entry.obj, "metadata": metadata}, entry)

    def _remove(self, resource: Resource, entry: Entry) -> Entry:
        if resource.kind == "Namespace":
            self._empty_namespace(entry.obj["metadata"]["name"])
        key, uid = _key(resource.kind, entry.obj), entry.obj["metadata"]["uid"]
        del self._entries[resource.kind][key[1:]]
        self._uids.discard(uid)
        for owner in entry.obj["metadata"].get("ownerReferences") or ():
            self._dependents[owner["uid"]].discard(key)
        last = self._versioned(entry.obj)
        self._record(resource.kind, Change(self._revision, "DELETED", last, entry))
        self._collect(uid)
        return last

    def _collect(self, uid: str) -> None:
        """Deletes what only the removed object owned."""
        for kind, namespace, name in sorted(self._dependents.pop(uid, ())):
            obj = self._entries[kind][namespace, name].obj
            owners = {owner["uid"] for owner in obj["metadata"].get("ownerReferences") or ()}
            if not owners & self._uids:
                self.delete(kind, name, namespace=namespace)

    def _orphan(self, uid: str) -> None:
        for kind, namespace, name in sorted(self._dependents.pop(uid, ())):
            entry = self._entries[kind][namespace, name]
            metadata = dict(entry.obj["metadata"])
            metadata["ownerReferences"] = [
                owner for owner in metadata["ownerReferences"] if owner["uid"] != uid
            ]
            self._put("MODIFIED", BY_KIND[kind], {**entry.obj, "metadata": metadata}, entry)

    def _empty_namespace(self, namespace: str) -> None:
        for kind, entries in self._entries.items():
            for key in [key for key in entries if key[0] == namespace]:
                if entry := entries.get(key):
                    self._remove(BY_KIND[kind], entry)


def _key(kind: str, obj: Object) -> _Key:
    return kind, obj["metadata"].get("namespace", ""), obj["metadata"]["name"]


def _ready_to_go(obj: Object) -> bool:
    """Whether an update took away the last finalizer of an object that is to be deleted."""
    metadata = obj["metadata"]
    waits = metadata.get("finalizers") or metadata.get("deletionGracePeriodSeconds")
    return "deletionTimestamp" in metadata and not waits


def _check_preconditions(resource: Resource, obj: Object, options: DeleteOptions) -> None:
    metadata = obj["metadata"]
    for wanted, key in ((options.uid, "uid"), (options.resource_version, "resourceVersion")):
        if wanted is not None and wanted != metadata[key]:
            why = f"Precondition failed: {key} in precondition: {wanted}, found: {metadata[key]}"
            raise conflict(resource.qualified, metadata["name"], why)


def _grace(obj: Object, options: DeleteOptions) -> int:
    """Seconds a pod may still run; none if it is on no node or has ended, and for other kinds."""
    if obj["kind"] != "Pod" or not obj["spec"].get("nodeName"):
        return 0
    if obj["status"].get("phase") in ("Succeeded", "Failed"):
        return 0
    own: int = obj["spec"].get("terminationGracePeriodSeconds", 30)
    return own if options.grace is None else options.grace
