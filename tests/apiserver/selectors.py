"""Label and field selectors, parsed strictly: what is not understood is a 400, never ignored."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial

from tests.apiserver.errors import ApiError, Object
from tests.apiserver.resources import Resource

Predicate = Callable[[Object], bool]

_SET = re.compile(r"^(?P<key>\S+)\s+(?P<operator>in|notin)\s+\((?P<values>[^()]*)\)$")
_EQUAL = re.compile(r"^(?P<key>[^\s!=]+)\s*(?P<operator>==|=|!=)\s*(?P<value>[^\s!=]*)$")
_EXISTS = re.compile(r"^(?P<operator>!?)\s*(?P<key>[^\s!=(),]+)$")
_OUTSIDE_PARENTHESES = re.compile(r",(?![^(]*\))")


def selector(resource: Resource, *, labels: str = "", fields: str = "") -> Predicate:
    """Returns what tells whether an object matches both selectors; ApiError 400 if malformed."""
    tests = [_label_test(part) for part in _parts(labels)]
    tests += [_field_test(resource, part) for part in _parts(fields)]
    return partial(_all_hold, tests)


def _all_hold(tests: list[Predicate], obj: Object) -> bool:
    return all(test(obj) for test in tests)


def _parts(text: str) -> list[str]:
    return [part.strip() for part in _OUTSIDE_PARENTHESES.split(text)] if text.strip() else []


def _label_test(part: str) -> Predicate:
    if match := _SET.match(part):
        values = {value.strip() for value in match["values"].split(",")}
        return partial(_label_in, match["key"], values, match["operator"] == "in")
    if match := _EQUAL.match(part):
        return partial(_label_in, match["key"], {match["value"]}, match["operator"] != "!=")
    if match := _EXISTS.match(part):
        return partial(_label_exists, match["key"], match["operator"] != "!")
    raise ApiError(400, f"unable to parse requirement: {part!r}")


def _labels(obj: Object) -> dict[str, str]:
    return obj["metadata"].get("labels") or {}


def _label_in(key: str, values: set[str], wanted: bool, obj: Object) -> bool:
    """`notin` and `!=` hold for an object without the label, as in Kubernetes."""
    return (_labels(obj).get(key) in values) is wanted


def _label_exists(key: str, wanted: bool, obj: Object) -> bool:
    return (key in _labels(obj)) is wanted


def _field_test(resource: Resource, part: str) -> Predicate:
    match = _EQUAL.match(part)
    if not match:
        raise ApiError(400, f"invalid selector: '{part}'; can't understand '{part}'")
    key, value = match["key"], match["value"]
    allowed = {"metadata.name", *resource.fields}
    if resource.namespaced:
        allowed.add("metadata.namespace")
    if key not in allowed:
        raise ApiError(400, f'field label not supported: "{key}"')
    return partial(_field_is, key.split("."), value, match["operator"] != "!=")


def _field_is(path: list[str], value: str, wanted: bool, obj: Object) -> bool:
    found: object = obj
    for step in path:
        found = found.get(step) if isinstance(found, dict) else None
    return (("" if found is None else str(found)) == value) is wanted
