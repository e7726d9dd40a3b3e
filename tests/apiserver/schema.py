"""Checks objects against the schemas that the Python clients' models carry.

`kubernetes` and `kubeflow.training` are generated from the OpenAPI documents of the API server and
the training operator: `openapi_types` has the types, `attribute_map` the JSON names, and a
required field's setter refuses None. Beyond that only names and label values are checked here;
rules across fields belong to admission (`Api.admission`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import kubeflow.training.models
import kubernetes.client.models
from kubernetes.client import Configuration

from tests.apiserver.errors import ApiError, Object, invalid
from tests.apiserver.resources import Resource

_LIST = re.compile(r"^list\[(.+)\]$")
_DICT = re.compile(r"^dict\(str, (.+)\)$")
_SCALARS: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "datetime": (str,),
    "int": (int,),
    "float": (int, float),
    "bool": (bool,),
}
_QUANTITIES = frozenset({"limits", "requests", "hard", "capacity", "sizeLimit", "minResources"})
_OPTIONAL_IN_CRD = frozenset({("KubeflowOrgV1PyTorchJobSpec", "runPolicy")})
"""Required by the Python model, but not by the CRD."""

_DNS_SUBDOMAIN = re.compile(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$")
_LABEL_VALUE = re.compile(r"^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$")


@dataclass
class Findings:
    """What is wrong with an object, as dotted paths."""

    unknown: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


def check(resource: Resource, obj: Object, *, field_validation: str) -> tuple[Object, list[str]]:
    """Returns the object without unknown fields and nulls, and the warnings to send along.

    Raises ApiError 400 for unknown fields under `Strict` and for wrong types in built-in kinds,
    422 for wrong types in custom ones, for required fields that are missing and for bad names.
    """
    findings = Findings()
    if resource.model:
        obj = _walk(resource.model, obj, "", findings)
    unknown = [f'unknown field "{path}"' for path in findings.unknown]
    if unknown and field_validation == "Strict":
        raise ApiError(400, f"strict decoding error: {', '.join(unknown)}")
    if findings.wrong and not resource.custom:
        raise ApiError(400, f"{resource.kind} cannot be handled: {'; '.join(findings.wrong)}")
    causes = findings.wrong + findings.missing + _name_causes(obj["metadata"])
    if causes:
        raise invalid(resource.kind, obj["metadata"].get("name", ""), causes)
    return obj, unknown if field_validation == "Warn" else []


def _name_causes(metadata: Object) -> list[str]:
    name = metadata.get("name", "")
    causes = []
    if not _DNS_SUBDOMAIN.match(name) or len(name) > 253:
        causes.append(
            f'metadata.name: Invalid value: "{name}": a lowercase RFC 1123 subdomain must consist '
            "of lower case alphanumeric characters, '-' or '.'"
        )
    for key, value in (metadata.get("labels") or {}).items():
        if not _LABEL_VALUE.match(value) or len(value) > 63:
            causes.append(
                f'metadata.labels: Invalid value: "{value}": a valid label value (of {key}) must '
                "have at most 63 characters and consist of alphanumerics, '-', '_' or '.'"
            )
    return causes


@cache
def _model(name: str) -> type[Any] | None:
    for module in (kubernetes.client.models, kubeflow.training.models):
        if hasattr(module, name):
            found: type[Any] = getattr(module, name)
            return found
    return None


@cache
def _required(name: str) -> frozenset[str]:
    """The JSON names that a model's setters refuse None for."""
    model = _model(name)
    assert model is not None
    instance: Any = object.__new__(model)
    instance.local_vars_configuration = Configuration()
    required = set()
    for attribute, json_name in model.attribute_map.items():
        try:
            setattr(instance, attribute, None)
        except ValueError:
            if (name, json_name) not in _OPTIONAL_IN_CRD:
                required.add(json_name)
    return frozenset(required)


def _walk(type_name: str, value: Any, path: str, findings: Findings) -> Any:
    """Returns `value` without unknown fields and nulls, adding what is wrong to `findings`."""
    if match := _LIST.match(type_name):
        if _is(value, (list,), path, findings):
            return [
                _walk(match[1], item, f"{path}[{index}]", findings)
                for index, item in enumerate(value)
            ]
    elif match := _DICT.match(type_name):
        if _is(value, (dict,), path, findings):
            return {
                key: _walk(match[1], item, f"{path}.{key}", findings)
                for key, item in value.items()
                if item is not None
            }
    elif type_name in _SCALARS:
        if not _is_quantity(path, value):
            _is(value, _SCALARS[type_name], path, findings)
    elif (model := _model(type_name)) is not None and _is(value, (dict,), path, findings):
        return _walk_model(model, value, path, findings)
    return value


def _walk_model(model: type[Any], value: Object, path: str, findings: Findings) -> Object:
    attributes = {json_name: name for name, json_name in model.attribute_map.items()}
    kept = {}
    for key, item in value.items():
        at = f"{path}.{key}" if path else key
        if key not in attributes:
            findings.unknown.append(at)
        elif item is not None:
            kept[key] = _walk(model.openapi_types[attributes[key]], item, at, findings)
    for key in sorted(_required(model.__name__) - kept.keys()):
        findings.missing.append(f"{path}.{key}: Required value" if path else f"{key}: Required")
    return kept


def _is(value: Any, allowed: tuple[type, ...], path: str, findings: Findings) -> bool:
    """JSON tells numbers from booleans, Python's isinstance does not."""
    fits = isinstance(value, allowed) and (bool in allowed or not isinstance(value, bool))
    if not fits:
        names = " or ".join(kind.__name__ for kind in allowed)
        findings.wrong.append(f"{path}: Invalid value: {value!r}: must be of type {names}")
    return fits


def _is_quantity(path: str, value: Any) -> bool:
    """Quantities may be written as numbers; the models call them strings."""
    return isinstance(value, (int, float)) and not _QUANTITIES.isdisjoint(path.split("."))
