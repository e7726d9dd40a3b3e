"""The verbs of the API over the store, without HTTP: a request in, a reply or a stream out."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from threading import Event

from tests.apiserver import schema
from tests.apiserver.access import Access, Action
from tests.apiserver.discovery import (
    HEALTH_PATHS,
    OPENAPI_V2_PATH,
    OPENAPI_V2_TYPE,
    documents,
)
from tests.apiserver.errors import ApiError, Object, invalid
from tests.apiserver.logs import LogBook, LogOptions
from tests.apiserver.messages import Reply, Request, Stream, json_reply
from tests.apiserver.objects import named
from tests.apiserver.paging import Page, Pages
from tests.apiserver.patches import apply_patch
from tests.apiserver.resources import Resource
from tests.apiserver.routing import Route, Router
from tests.apiserver.selectors import Predicate, selector
from tests.apiserver.store import DeleteOptions, Entry, Snapshot, Store
from tests.apiserver.tables import table
from tests.apiserver.watch import Encoder, Watch, watch

REVIEW_PATH = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"


Admission = Callable[[Object], Object]
"""Sees every object before it is stored: returns it, changed or not, or raises ApiError."""


class Api:
    """Answers requests from a store, its logs and the access rules."""

    def __init__(
        self, store: Store, *, resources: tuple[Resource, ...], logs: LogBook, access: Access
    ) -> None:
        self.closing = Event()
        self.admission: list[Admission] = []
        self._store = store
        self._logs = logs
        self._access = access
        self._router = Router(resources)
        self._documents = documents(resources)
        self._pages = Pages(store)

    def verb(self, request: Request) -> str:
        """Returns the verb of a request, for faults; that of a fixed document is get."""
        try:
            return self._router.route(request.method, request.path, request.query).verb
        except ApiError:
            return "create" if request.method == "POST" else "get"

    def handle(self, request: Request) -> Reply | Stream:
        """Answers one request; ApiError for everything but success."""
        if request.path in HEALTH_PATHS:
            return Reply(200, b"ok", content_type="text/plain")
        self._access.authenticate(request.headers)
        path = request.path.rstrip("/")
        if path == REVIEW_PATH and request.method == "POST":
            return json_reply(201, self._access.review(request.json()))
        if path == OPENAPI_V2_PATH:
            return Reply(200, b"", content_type=OPENAPI_V2_TYPE)
        if path in self._documents and request.method == "GET":
            return json_reply(200, self._documents[path])
        route = self._router.route(request.method, path, request.query)
        self._authorise(route)
        if route.subresource:
            return self._subresource(request, route)
        handlers: dict[str, Callable[[Request, Route], Reply | Stream]] = {
            "list": self._list,
            "watch": self._watch,
            "create": self._create,
            "get": self._get,
            "update": self._update,
            "patch": self._update,
            "delete": self._delete,
            "deletecollection": self._delete_collection,
        }
        return handlers[route.verb](request, route)

    def admit(self, obj: Object) -> Object:
        """Returns an object as admission lets it through; ApiError if it does not."""
        for admission in self.admission:
            obj = admission(obj)
        return obj

    def _authorise(self, route: Route) -> None:
        plural = route.resource.plural
        self._access.authorise(
            Action(
                verb=route.verb,
                group=route.resource.group,
                resource=f"{plural}/{route.subresource}" if route.subresource else plural,
                namespace=route.namespace or "",
                name=route.name or "",
            )
        )

    def _subresource(self, request: Request, route: Route) -> Reply | Stream:
        if route.subresource == "log" and route.resource.kind == "Pod" and route.verb == "get":
            return self._log(request, route)
        if route.subresource == "status" and route.resource.status:
            handlers = {"get": self._get, "update": self._update, "patch": self._update}
            if route.verb in handlers:
                return handlers[route.verb](request, route)
        raise ApiError(404, "the server could not find the requested resource")

    def _log(self, request: Request, route: Route) -> Reply | Stream:
        pod = self._store.get("Pod", route.name or "", route.namespace or "")
        chunks = self._logs.read(pod, LogOptions.of_request(request), self.closing)
        return Stream(chunks, "text/plain") if chunks is not None else Reply(204, b"")

    # Reading

    def _get(self, request: Request, route: Route) -> Reply:
        obj = self._store.get(route.resource.kind, route.name or "", route.namespace or "")
        return Reply(200, _encoder(request, route.resource)(Entry(obj)))

    def _list(self, request: Request, route: Route) -> Reply:
        page = self._page(request, route)
        metadata: Object = {"resourceVersion": str(page.revision)}
        if page.token:
            metadata["continue"] = page.token
            if not {"labelSelector", "fieldSelector"} & request.query.keys():
                metadata["remainingItemCount"] = page.left
        if _wants_table(request):
            objects = (entry.obj for entry in page.entries)
            whole = request.query.get("includeObject") == "Object"
            kind = route.resource.kind
            return json_reply(200, table(kind, objects, metadata=metadata, whole=whole))
        head = {"kind": f"{route.resource.kind}List", "apiVersion": route.resource.api_version}
        opening = json.dumps({**head, "metadata": metadata})[:-1].encode()
        items = b",".join(entry.raw for entry in page.entries)
        return Reply(200, opening + b',"items":[' + items + b"]}")

    def _page(self, request: Request, route: Route) -> Page:
        kind, limit = route.resource.kind, request.number("limit") or None
        if token := request.query.get("continue"):
            return self._pages.next(kind, token, limit)
        matches = _matches(request, route)
        everything = self._store.snapshot(kind, route.namespace)
        entries = [entry for entry in everything.entries if matches(entry.obj)]
        return self._pages.first(Snapshot(everything.revision, entries), limit)

    def _watch(self, request: Request, route: Route) -> Stream:
        if "sendInitialEvents" in request.query:
            cause = "sendInitialEvents: Forbidden: needs the WatchList feature gate"
            raise invalid("ListOptions", "", [cause])
        query = Watch(
            route.resource,
            route.namespace,
            _matches(request, route),
            since=request.number("resourceVersion") or None,
            timeout=request.number("timeoutSeconds"),
            bookmarks=request.flag("allowWatchBookmarks"),
        )
        encode = _encoder(request, route.resource)
        return Stream(watch(self._store, query, encode, self.closing))

    # Writing

    def _create(self, request: Request, route: Route) -> Reply:
        obj = named(_typed(route, request.json()), route.namespace or "")
        obj, warnings = self._admit(request, route.resource, obj)
        entry = self._store.create(obj, namespace=route.namespace or "", dry_run=request.dry_run)
        return Reply(201, entry.raw, tuple(warnings))

    def _update(self, request: Request, route: Route) -> Reply:
        """Serves PUT and PATCH, of the object and of its status."""
        warnings: list[str] = []
        resource = route.resource

        def change(current: Object) -> Object:
            if route.verb == "patch":
                content_type = request.headers.get("Content-Type", "").partition(";")[0]
                proposed = apply_patch(resource, content_type, request.body, current)
            else:
                proposed = request.json()
                _check_replacement(resource, proposed)
            proposed = _typed(route, proposed)
            if route.subresource:
                proposed = {**current, **{key: proposed.get(key) for key in ("metadata", "status")}}
                return schema.check(resource, proposed, field_validation="Ignore")[0]
            proposed, found = self._admit(request, resource, proposed)
            warnings.extend(found)
            return proposed

        entry = self._store.update(
            resource.kind,
            route.name or "",
            change,
            namespace=route.namespace or "",
            status_only=route.subresource == "status",
            dry_run=request.dry_run,
        )
        return Reply(200, entry.raw, tuple(warnings))

    def _admit(self, request: Request, resource: Resource, obj: Object) -> tuple[Object, list[str]]:
        validation = request.query.get("fieldValidation", "Warn")
        obj, warnings = schema.check(resource, obj, field_validation=validation)
        return self.admit(obj), warnings

    def _delete(self, request: Request, route: Route) -> Reply:
        entry = self._store.delete(
            route.resource.kind,
            route.name or "",
            namespace=route.namespace or "",
            options=_delete_options(request),
        )
        metadata = entry.obj["metadata"]
        if "deletionTimestamp" in metadata or route.resource.kind == "Pod":
            return Reply(200, entry.raw)
        details = {"name": route.name, "group": route.resource.group, "uid": metadata["uid"]}
        status = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}
        return json_reply(200, {**status, "details": {**details, "kind": route.resource.plural}})

    def _delete_collection(self, request: Request, route: Route) -> Reply:
        matches, options = _matches(request, route), _delete_options(request)
        kind = route.resource.kind
        for metadata in (
            o["metadata"] for o in self._store.all(kind, route.namespace) if matches(o)
        ):
            namespace = metadata.get("namespace", "")
            with suppress(ApiError):  # it went with its owner, the one before
                self._store.delete(kind, metadata["name"], namespace=namespace, options=options)
        return json_reply(200, {"kind": "Status", "apiVersion": "v1", "status": "Success"})


def _matches(request: Request, route: Route) -> Predicate:
    labels, fields = (request.query.get(f"{kind}Selector", "") for kind in ("label", "field"))
    return selector(route.resource, labels=labels, fields=fields)


def _wants_table(request: Request) -> bool:
    return "as=Table" in request.headers.get("Accept", "")


def _encoder(request: Request, resource: Resource) -> Encoder:
    """Returns how one object is written: as it is, or as the table kubectl asks for."""
    if not _wants_table(request):
        return lambda entry: entry.raw
    whole = request.query.get("includeObject") == "Object"

    def encode(entry: Entry) -> bytes:
        version = {"resourceVersion": entry.obj["metadata"]["resourceVersion"]}
        return json_reply(
            200, table(resource.kind, [entry.obj], metadata=version, whole=whole)
        ).body

    return encode


def _typed(route: Route, obj: Object) -> Object:
    """Returns the object with its kind; ApiError 400 if it says another kind or namespace."""
    resource = route.resource
    expected = {"apiVersion": resource.api_version, "kind": resource.kind}
    for key, value in expected.items():
        if obj.get(key, value) != value:
            raise ApiError(400, f"the {key} in the data ({obj[key]}) is not {value}")
    metadata = obj.get("metadata") or {}
    if not isinstance(metadata, dict):
        raise ApiError(400, "metadata is not an object")
    if metadata.get("namespace", route.namespace) not in (route.namespace, ""):
        raise ApiError(
            400,
            "the namespace of the provided object does not match the namespace sent on the request",
        )
    return {**obj, **expected, "metadata": metadata}


def _check_replacement(resource: Resource, obj: Object) -> None:
    """A custom resource is replaced only by a writer who says which version he has seen."""
    metadata = obj.get("metadata") or {}
    if resource.custom and not metadata.get("resourceVersion"):
        cause = "metadata.resourceVersion: Invalid value: 0x0: must be specified for an update"
        raise invalid(resource.kind, metadata.get("name", ""), [cause])


def _delete_options(request: Request) -> DeleteOptions:
    """Reads the options from the body or, as older clients do, from the query."""
    given = {**request.query, **request.json()}
    conditions = given.get("preconditions") or {}
    grace = given.get("gracePeriodSeconds")
    return DeleteOptions(
        grace=int(grace) if grace is not None else None,
        propagation=given.get("propagationPolicy") or "Background",
        uid=conditions.get("uid"),
        resource_version=conditions.get("resourceVersion"),
        dry_run=request.dry_run or given.get("dryRun") == ["All"],
    )
