"""What clients read to learn what the server offers: discovery, version, health and OpenAPI.

The OpenAPI documents hold no schemas. They say that every kind takes `fieldValidation` and
`dryRun`, and kubectl then leaves validation to the server.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby

from tests.apiserver.errors import Object
from tests.apiserver.resources import Resource

VERSION = {
    "major": "1",
    "minor": "32",
    "gitVersion": "v1.32.4",
    "gitCommit": "",
    "gitTreeState": "clean",
    "buildDate": "2025-04-22T00:00:00Z",
    "goVersion": "go1.23.6",
    "compiler": "gc",
    "platform": "linux/amd64",
}
OPENAPI_V2_PATH = "/openapi/v2"
OPENAPI_V2_TYPE = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
"""An empty document, which is a valid one, for kubectl's check of `kind: List`."""
HEALTH_PATHS = ("/healthz", "/livez", "/readyz")

_VERBS = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")
_REVIEW = ("authorization.k8s.io/v1", "SelfSubjectAccessReview", "selfsubjectaccessreviews")


def documents(resources: Iterable[Resource]) -> dict[str, Object]:
    """Returns every fixed document by its path."""
    pages: dict[str, Object] = {"/version": VERSION}
    versions: dict[str, list[str]] = {}
    by_version = sorted(resources, key=lambda resource: resource.api_version)
    for api_version, group in groupby(by_version, key=lambda resource: resource.api_version):
        members = list(group)
        pages[members[0].prefix] = _resource_list(api_version, members)
        pages[f"/openapi/v3{members[0].prefix}"] = _openapi(members)
        if members[0].group:
            versions.setdefault(members[0].group, []).append(members[0].version)
    pages[f"/apis/{_REVIEW[0]}"] = _review_list()
    versions["authorization.k8s.io"] = ["v1"]
    groups = {name: _group(name, served) for name, served in sorted(versions.items())}
    pages["/api"] = {"kind": "APIVersions", "versions": ["v1"]}
    pages["/apis"] = {"kind": "APIGroupList", "apiVersion": "v1", "groups": list(groups.values())}
    for name, group_page in groups.items():
        pages[f"/apis/{name}"] = {"kind": "APIGroup", "apiVersion": "v1", **group_page}
    pages["/openapi/v3"] = {
        "paths": {
            path.removeprefix("/openapi/v3/"): {"serverRelativeURL": path}
            for path in pages
            if path.startswith("/openapi/v3/")
        }
    }
    return pages


def _group(name: str, versions: list[str]) -> Object:
    served = [{"groupVersion": f"{name}/{version}", "version": version} for version in versions]
    return {"name": name, "versions": served, "preferredVersion": served[0]}


def _resource_list(api_version: str, members: list[Resource]) -> Object:
    listed: list[Object] = []
    for resource in members:
        entry: Object = {
            "name": resource.plural,
            "singularName": resource.kind.lower(),
            "kind": resource.kind,
            "namespaced": resource.namespaced,
            "verbs": list(_VERBS),
        }
        names = {"shortNames": list(resource.short), "categories": list(resource.categories)}
        listed.append(entry | names)
        if resource.status:
            verbs = ["get", "patch", "update"]
            listed.append({**entry, "name": f"{resource.plural}/status", "verbs": verbs})
        if resource.kind == "Pod":
            listed.append({**entry, "name": f"{resource.plural}/log", "verbs": ["get"]})
    return _api_resource_list(api_version, listed)


def _review_list() -> Object:
    api_version, kind, plural = _REVIEW
    entry = {"name": plural, "singularName": kind.lower(), "kind": kind}
    return _api_resource_list(api_version, [{**entry, "namespaced": False, "verbs": ["create"]}])


def _api_resource_list(api_version: str, listed: list[Object]) -> Object:
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": api_version,
        "resources": listed,
    }


def _openapi(members: list[Resource]) -> Object:
    parameters = [
        {"name": name, "in": "query", "schema": {"type": "string"}}
        for name in ("dryRun", "fieldValidation", "fieldManager")
    ]
    paths = {}
    for resource in members:
        scope = "/namespaces/{namespace}" if resource.namespaced else ""
        operation = {
            "x-kubernetes-action": "patch",
            "x-kubernetes-group-version-kind": {
                "group": resource.group,
                "version": resource.version,
                "kind": resource.kind,
            },
            "parameters": parameters,
            "requestBody": {"content": {"application/merge-patch+json": {"schema": {}}}},
            "responses": {"200": {"description": "OK"}},
        }
        paths[f"{resource.prefix}{scope}/{resource.plural}/{{name}}"] = {"patch": operation}
    info = {"title": "Kubernetes", "version": VERSION["gitVersion"]}
    return {"openapi": "3.0.0", "info": info, "paths": paths, "components": {"schemas": {}}}
