"""The requests the Kubernetes backend makes: authentication, retries, pages, errors in words.

Objects are plain dicts, as the API sends them. `kubeflow.training.TrainingClient` is not used for
its create, get and delete: its models drop fields they do not know, so that the server cannot
refuse a misspelt one and a read cannot show it; a job without runPolicy or with minResources cannot
be read at all; and no request of it has a timeout. What is made here is what it expects: it reads
and deletes our jobs.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import kubernetes.client
import kubernetes.config
import urllib3
from kubernetes.client.rest import ApiException

from florence.launch.kubernetes_resources import PODS, REVIEWS, Resource
from florence.launch.manifest import Manifest
from florence.util.errors import InfrastructureError, UserError

Verb = Literal["get", "list", "create", "patch", "delete"]

PAGE = 500
"""Objects per page of a list."""
PATIENCE = 15.0
"""Seconds for which a request that fails for a passing reason is tried again."""
_CONNECT_SECONDS = 5
_ANSWER_SECONDS = 30
_MOST_BACKOFF = 5.0
_CONNECTIONS_KEPT = 128
_TRANSIENT = (429, 500, 502, 503, 504)
_METHODS = {
    "get": "GET",
    "list": "GET",
    "create": "POST",
    "patch": "PATCH",
    "delete": "DELETE",
}


class RefusedError(UserError):
    """A request the API server refuses, and would again; `code` is the HTTP status."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


@contextmanager
def suppress_code(*codes: int) -> Iterator[None]:
    """Lets refusals of these HTTP statuses pass."""
    try:
        yield
    except RefusedError as error:
        if error.code not in codes:
            raise


class Retries:
    """Growing, random pauses between tries, until there was no success for too long."""

    def __init__(
        self, what: str, patience: float, first: float, sleep: Callable[[float], object]
    ) -> None:
        self._what = what
        self._patience = patience
        self._first = first
        self._sleep = sleep
        self.succeeded()

    def succeeded(self) -> None:
        """Begins anew."""
        self._begin, self._backoff = time.monotonic(), self._first

    def pause(self, cause: str, *, at_least: float = 0.0) -> None:
        """Waits before the next try; InfrastructureError if there is no time for one."""
        pause = max(at_least, self._backoff * random.uniform(0.5, 1.5))
        if time.monotonic() - self._begin + pause > self._patience:
            raise InfrastructureError(
                f"the cluster at {self._what}: {cause}; see: florence doctor --backend kubernetes"
            )
        self._sleep(pause)
        self._backoff = min(2 * self._backoff, _MOST_BACKOFF)


class Cluster:
    """One namespace of the cluster that kubeconfig, or the pod this runs in, leads to.

    Every request is tried again with growing pauses after 429, 5xx and lost connections. Raises
    UserError (`RefusedError` with its code) for what will not pass, InfrastructureError when the
    cluster does not answer for `patience` seconds.
    """

    def __init__(
        self, namespace: str, *, kubeconfig: Path | None = None, first_backoff: float = 0.2
    ) -> None:
        """`kubeconfig`: in place of `KUBECONFIG`, ~/.kube/config or the pod's service account."""
        self.namespace = namespace
        self._first_backoff = first_backoff
        self._api = kubernetes.client.ApiClient(_configuration(kubeconfig))

    @property
    def address(self) -> str:
        """The URL of the API server."""
        return str(self._api.configuration.host)

    def version(self) -> str:
        """Returns the version of the API server, which tells that it answers."""
        return str(self._document("/version")["gitVersion"])

    def serves(self, resource: Resource) -> bool:
        """Tells whether the API has a kind; everybody may ask that."""
        prefix = f"/apis/{resource.group}/{resource.version}"
        try:
            found = self._document(prefix)["resources"]
        except RefusedError as error:
            if error.code == 404:
                return False
            raise
        return any(served["name"] == resource.plural for served in found)

    def reaches_service(self, name: str, *, namespace: str, port: int, path: str) -> bool:
        """Tells whether a service of the cluster answers, asked through the API server."""
        proxy = f"/api/v1/namespaces/{namespace}/services/{name}:{port}/proxy/{path}"
        try:
            self._call(proxy, "GET")
        except ApiException as error:
            if error.status in (401, 403):
                raise self._refusal(error, "get", Resource("services/proxy"), name) from error
            return False
        except (urllib3.exceptions.HTTPError, OSError):
            return False
        return True

    def allows(self, verb: str, resource: Resource, *, subresource: str = "") -> bool:
        """Tells whether the user may do something in the namespace."""
        asked = {
            "namespace": self.namespace,
            "verb": verb,
            "group": resource.group,
            "resource": resource.plural,
            "subresource": subresource,
        }
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": asked},
        }
        return bool(self._object("create", REVIEWS, body=review)["status"]["allowed"])

    def get(self, resource: Resource, name: str, *, patience: float = PATIENCE) -> Manifest:
        """Returns one object; RefusedError 404 if there is none."""
        return self._object("get", resource, name, patience=patience)

    def find(self, resource: Resource, name: str, *, patience: float = PATIENCE) -> Manifest | None:
        """Returns one object or None."""
        with suppress_code(404):
            return self.get(resource, name, patience=patience)
        return None

    def list(
        self,
        resource: Resource,
        *,
        labels: str = "",
        fields: str = "",
        patience: float = PATIENCE,
    ) -> list[Manifest]:
        """Returns the objects both selectors match, read in pages of one consistent state."""
        query = {"labelSelector": labels, "fieldSelector": fields, "limit": PAGE}
        items: list[Manifest] = []
        token = ""
        while True:
            try:
                page = self._object(
                    "list", resource, query=query | {"continue": token}, patience=patience
                )
            except RefusedError as error:
                if error.code != 410 or not token:
                    raise
                items, token = [], ""  # the state the pages are of is forgotten: once more
                query["limit"] = 2 * int(str(query["limit"]))
                continue
            items += page["items"]
            token = page["metadata"].get("continue") or ""
            if not token:
                return items

    def create(self, resource: Resource, obj: Manifest) -> Manifest:
        """Creates an object and returns it as stored; unknown fields are refused."""
        query = {"fieldValidation": "Strict"}
        name = (obj.get("metadata") or {}).get("name", "")
        return self._object("create", resource, name, body=obj, query=query)

    def patch(self, resource: Resource, name: str, patch: Manifest) -> Manifest:
        """Merges fields into an object (RFC 7386: null takes a field away)."""
        return self._object("patch", resource, name, body=patch)

    def delete(self, resource: Resource, obj: Manifest) -> None:
        """Asks for the end of exactly this object: not of a later one with its name."""
        metadata = obj["metadata"]
        body = {"preconditions": {"uid": metadata["uid"]}, "propagationPolicy": "Background"}
        with suppress_code(404, 409):  # gone, or another one has its name
            self._object("delete", resource, metadata["name"], body=body)

    def open_log(self, pod: str, query: Mapping[str, Any], *, silence: float) -> Any:
        """Opens a pod's log; reading raises urllib3's HTTPError after `silence` s without a line.

        Tried once. RefusedError 400 if there is no such log yet, 404 if the pod is gone.
        """
        path = PODS.path(self.namespace, pod, "log")
        timeout = (_CONNECT_SECONDS, silence)
        try:
            return self._call(path, "GET", query=query, stream=True, timeout=timeout)
        except ApiException as error:
            if error.status in _TRANSIENT:
                raise urllib3.exceptions.HTTPError(_message(error)) from error
            raise self._refusal(error, "get", Resource("pods/log"), pod) from error

    def _document(self, path: str) -> Manifest:
        what = Resource(path.strip("/"), namespaced=False)
        answer: Manifest = self._retried(lambda: self._call(path, "GET"), "get", what, "", 0.0)
        return answer

    def _object(
        self,
        verb: Verb,
        resource: Resource,
        name: str = "",
        *,
        body: Manifest | None = None,
        query: Mapping[str, Any] | None = None,
        patience: float = PATIENCE,
    ) -> Manifest:
        path = resource.path(self.namespace, "" if verb in ("list", "create") else name)

        seconds = _ANSWER_SECONDS if patience >= PATIENCE else max(patience, 0.1)
        timeout = (min(_CONNECT_SECONDS, seconds), seconds)

        def attempt() -> Any:
            return self._call(path, _METHODS[verb], body=body, query=query, timeout=timeout)

        answer: Manifest = self._retried(attempt, verb, resource, name, patience)
        return answer

    def _call(
        self,
        path: str,
        method: str,
        *,
        body: Manifest | None = None,
        query: Mapping[str, Any] | None = None,
        stream: bool = False,
        timeout: tuple[float, float] = (_CONNECT_SECONDS, _ANSWER_SECONDS),
    ) -> Any:
        content = "application/merge-patch+json" if method == "PATCH" else "application/json"
        return self._api.call_api(
            path,
            method,
            query_params=[(key, value) for key, value in (query or {}).items() if value != ""],
            header_params={
                "Accept": "application/json, */*",
                "Content-Type": content,
            },
            body=body,
            response_type="object",
            auth_settings=["BearerToken"],
            _return_http_data_only=True,
            _preload_content=not stream,
            _request_timeout=timeout,
        )

    def _retried(
        self,
        attempt: Callable[[], Any],
        verb: Verb,
        resource: Resource,
        name: str,
        patience: float,
    ) -> Any:
        retries = self.retries(patience, what=f"{verb} {resource.qualified}")
        while True:
            try:
                return attempt()
            except ApiException as error:
                if error.status not in _TRANSIENT:
                    raise self._refusal(error, verb, resource, name) from error
                retries.pause(_message(error), at_least=_retry_after(error))
            except (urllib3.exceptions.HTTPError, OSError) as error:
                retries.pause(str(error))

    def retries(
        self, patience: float, *, what: str, sleep: Callable[[float], object] = time.sleep
    ) -> Retries:
        """Returns the pauses for something that is tried again for `patience` seconds."""
        return Retries(f"{self.address} does not {what}", patience, self._first_backoff, sleep)

    def _refusal(
        self, error: ApiException, verb: str, resource: Resource, name: str
    ) -> RefusedError:
        """Says what was refused and what to do about it."""
        what = f"{verb} {resource.qualified}" + (f" {name}" if name else "")
        if resource.namespaced:
            what += f" in namespace {self.namespace}"
        said = _message(error)
        remedy = {
            0: "check the certificate-authority of your kubeconfig",
            401: "the credentials of your kubeconfig are refused or have expired: log in again",
            403: "ask for the right; florence doctor --backend kubernetes lists those needed",
            404: "florence jobs list --backend kubernetes shows what there is",
            409: "it was changed or made by somebody else meanwhile: try again",
        }.get(error.status, "correct the manifest")
        if "admission webhook" in said:
            remedy = "correct the manifest"
        elif error.status == 404 and "could not find the requested resource" in said:
            remedy = "its operator is not installed: see florence doctor --backend kubernetes"
        return RefusedError(error.status, f"cannot {what}: {said} ({error.status}); {remedy}")


def _configuration(kubeconfig: Path | None) -> Any:
    configuration = kubernetes.client.Configuration()
    configuration.retries = False  # `_retried` does, and keeps to the patience of its caller
    configuration.connection_pool_maxsize = _CONNECTIONS_KEPT
    path = None if kubeconfig is None else str(kubeconfig)
    problem = kubernetes.config.ConfigException
    try:
        kubernetes.config.load_kube_config(path, client_configuration=configuration)
    except problem as error:
        if kubeconfig is not None:
            raise UserError(f"{kubeconfig}: {error}") from error
        try:
            kubernetes.config.load_incluster_config(client_configuration=configuration)
        except problem:
            raise UserError(
                f"no cluster to talk to: {error}; set KUBECONFIG to the file of one"
            ) from error
    return configuration


def _message(error: ApiException) -> str:
    """Returns what the server said, in one line."""
    body = error.body.decode(errors="replace") if isinstance(error.body, bytes) else error.body
    try:
        text = json.loads(body or "")["message"]
    except (ValueError, KeyError, TypeError):
        text = body or error.reason
    return " ".join(str(text).split())


def _retry_after(error: ApiException) -> float:
    text = (error.headers or {}).get("Retry-After") or "0"
    return float(text) if text.isdecimal() else 0.0
