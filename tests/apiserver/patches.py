"""The three kinds of patch: JSON (RFC 6902), merge (RFC 7386) and, approximately, strategic merge.

The strategic merge knows the merge keys of pod templates, services and conditions; every other
list is replaced as a whole. Server-side apply is not offered.
"""

from __future__ import annotations

import copy
import json
from typing import Any

from tests.apiserver.errors import ApiError, Object
from tests.apiserver.resources import Resource

JSON_PATCH = "application/json-patch+json"
MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_PATCH = "application/strategic-merge-patch+json"

_MERGE_KEYS = {
    "conditions": ("type",),
    "containers": ("name",),
    "env": ("name",),
    "ephemeralContainers": ("name",),
    "hostAliases": ("ip",),
    "imagePullSecrets": ("name",),
    "initContainers": ("name",),
    "ownerReferences": ("uid",),
    "ports": ("containerPort", "port"),
    "secrets": ("name",),
    "volumeDevices": ("devicePath",),
    "volumeMounts": ("mountPath",),
    "volumes": ("name",),
}


def apply_patch(resource: Resource, content_type: str, body: bytes, current: Object) -> Object:
    """Returns `current` with the patch applied; ApiError 400, 415 or 422 if it cannot be."""
    accepted = (JSON_PATCH, MERGE_PATCH, *(() if resource.custom else (STRATEGIC_PATCH,)))
    if content_type not in accepted:
        raise ApiError(
            415,
            "the body of the request was in an unknown format - accepted media types include: "
            + ", ".join(accepted),
        )
    try:
        patch = json.loads(body)
    except ValueError as error:
        raise ApiError(400, f"error decoding patch: {error}") from error
    if content_type == JSON_PATCH and isinstance(patch, list):
        return _json_patch(copy.deepcopy(current), patch)
    if content_type == JSON_PATCH or not isinstance(patch, dict):
        raise ApiError(400, f"a {content_type} cannot be a {type(patch).__name__}")
    apply = _merge if content_type == MERGE_PATCH else _strategic
    patched: Object = apply(current, patch)
    return patched


def _merge(target: Any, patch: Any) -> Any:
    """Null removes, objects merge, everything else is replaced."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    merged = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = _merge(merged.get(key), value)
    return merged


def _strategic(target: Any, patch: Object) -> Object:
    if patch.get("$patch") == "replace":
        return {key: value for key, value in patch.items() if not key.startswith("$")}
    merged: Object = dict(target) if isinstance(target, dict) else {}
    if "$retainKeys" in patch:
        merged = {key: merged[key] for key in patch["$retainKeys"] if key in merged}
    for key, value in patch.items():
        if key.startswith("$deleteFromPrimitiveList/"):
            name = key.partition("/")[2]
            merged[name] = [item for item in merged.get(name, []) if item not in value]
        elif key.startswith("$"):
            continue
        elif value is None or (isinstance(value, dict) and value.get("$patch") == "delete"):
            merged.pop(key, None)
        elif isinstance(value, dict):
            merged[key] = _strategic(merged.get(key), value)
        elif isinstance(value, list):
            merged[key] = _strategic_list(key, merged.get(key) or [], value)
        else:
            merged[key] = value
    return merged


def _strategic_list(field: str, target: list[Any], patch: list[Any]) -> list[Any]:
    """Merges item by item where the field has a merge key, keeping the order of `target`."""
    if field == "finalizers":
        return [*target, *(item for item in patch if item not in target)]
    if {"$patch": "replace"} in patch:
        return [item for item in patch if item != {"$patch": "replace"}]
    samples = [item for item in (*patch, *target) if isinstance(item, dict)]
    keys = [key for key in _MERGE_KEYS.get(field, ()) if any(key in item for item in samples)]
    if not keys or len(samples) != len(patch) + len(target):
        return patch
    items = {item.get(keys[0]): item for item in target}
    for item in patch:
        name = item.get(keys[0])
        if item.get("$patch") == "delete":
            items.pop(name, None)
        else:
            items[name] = _strategic(items.get(name), item)
    return list(items.values())


def _json_patch(document: Any, operations: list[Object]) -> Object:
    for operation in operations:
        try:
            document = _json_operation(document, operation)
        except (KeyError, IndexError, ValueError, TypeError) as error:
            message = f"the server rejected our request due to an error in our request: {error!r}"
            raise ApiError(422, message) from error
    if not isinstance(document, dict):
        raise ApiError(422, "a JSON patch must leave an object")
    return document


def _json_operation(document: Any, operation: Object) -> Any:
    name, path = operation["op"], _pointer(operation["path"])
    if name in ("remove", "replace"):
        _read(document, path)
    if name == "remove":
        return _write(document, path, None, remove=True)
    if name == "test":
        if _read(document, path) != operation["value"]:
            raise ValueError(f"testing value {operation['path']} failed")
        return document
    if name in ("move", "copy"):
        source = _pointer(operation["from"])
        value = copy.deepcopy(_read(document, source))
        if name == "move":
            document = _write(document, source, None, remove=True)
        return _write(document, path, value)
    if name not in ("add", "replace"):
        raise ValueError(f"unexpected op {name!r}")
    return _write(document, path, operation["value"], replace=name == "replace")


def _pointer(text: str) -> list[str]:
    if text and not text.startswith("/"):
        raise ValueError(f"the path {text!r} does not begin with /")
    return [step.replace("~1", "/").replace("~0", "~") for step in text.split("/")[1:]]


def _read(document: Any, path: list[str]) -> Any:
    for step in path:
        document = document[int(step) if isinstance(document, list) else step]
    return document


def _write(
    document: Any, path: list[str], value: Any, *, remove: bool = False, replace: bool = False
) -> Any:
    """Sets or removes the value at `path` in place and returns the document."""
    if not path:
        return value
    parent, last = _read(document, path[:-1]), path[-1]
    if isinstance(parent, list):
        index = len(parent) if last == "-" else int(last)
        if remove or replace:
            parent[index : index + 1] = [] if remove else [value]
        else:
            parent.insert(index, value)
    elif remove:
        del parent[last]
    else:
        parent[last] = value
    return document
