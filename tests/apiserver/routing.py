"""From a URL to what is asked for: kind, namespace, name, subresource and verb."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from tests.apiserver.errors import ApiError
from tests.apiserver.resources import Resource

_NAMED_VERBS = {"GET": "get", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
_COLLECTION_VERBS = {"GET": "list", "POST": "create", "DELETE": "deletecollection"}
_NAMESPACE_SUBRESOURCES = ("status", "finalize")


class Route(NamedTuple):
    """What a request is about; `namespace` is None for all of them, `name` for a collection."""

    resource: Resource
    verb: str
    namespace: str | None
    name: str | None
    subresource: str | None


class Router:
    """Finds the resource behind a path."""

    def __init__(self, resources: Iterable[Resource]) -> None:
        self._resources = {(item.prefix, item.plural): item for item in resources}

    def route(self, method: str, path: str, query: Mapping[str, str]) -> Route:
        """Returns what is asked for; ApiError 404 for an unknown path, 405 for a wrong method."""
        parts = path.strip("/").split("/")
        depth = 2 if parts[0] == "api" else 3
        prefix, rest = "/" + "/".join(parts[:depth]), parts[depth:]
        namespace = None
        if rest[:1] == ["namespaces"] and rest[2:3] and rest[2] not in _NAMESPACE_SUBRESOURCES:
            namespace, rest = rest[1], rest[2:]
        resource = self._resources.get((prefix, rest[0])) if rest else None
        if resource is None or len(rest) > 3 or (namespace and not resource.namespaced):
            raise ApiError(404, "the server could not find the requested resource")
        name = rest[1] if len(rest) > 1 else None
        subresource = rest[2] if len(rest) > 2 else None
        verb = (_NAMED_VERBS if name else _COLLECTION_VERBS).get(method)
        if verb is None or (verb == "create" and resource.namespaced and namespace is None):
            raise ApiError(405, "the server does not allow this method on the requested resource")
        if verb == "list" and query.get("watch", "").lower() in ("1", "true"):
            verb = "watch"
        return Route(resource, verb, namespace, name, subresource)
