"""The errors an API server answers with, each as the Status object that clients read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Object = dict[str, Any]
"""A Kubernetes object as JSON gives it."""

REASONS = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    405: "MethodNotAllowed",
    409: "Conflict",
    410: "Expired",
    415: "UnsupportedMediaType",
    422: "Invalid",
    429: "TooManyRequests",
    500: "InternalError",
    503: "ServiceUnavailable",
    504: "Timeout",
}


class ApiError(Exception):
    """An answer that is not a success: HTTP code, reason and message, as a Status carries them."""

    def __init__(
        self,
        code: int,
        message: str,
        *,
        reason: str | None = None,
        details: Object | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.reason = reason or REASONS.get(code, "Unknown")
        self.details = details

    @property
    def status(self) -> Object:
        """The error as a Status object."""
        status: Object = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "code": self.code,
        }
        if self.details:
            status["details"] = self.details
        return status


def not_found(resource: str, name: str) -> ApiError:
    """Returns the 404 of an object; `resource` is its plural with its group."""
    details = {"name": name, "kind": resource}
    return ApiError(404, f'{resource} "{name}" not found', details=details)


def already_exists(resource: str, name: str) -> ApiError:
    """Returns the 409 of a create whose name is taken."""
    message = f'{resource} "{name}" already exists'
    details = {"name": name, "kind": resource}
    return ApiError(409, message, reason="AlreadyExists", details=details)


def conflict(resource: str, name: str, why: str) -> ApiError:
    """Returns the 409 of a write that is based on an outdated object."""
    message = f'Operation cannot be fulfilled on {resource} "{name}": {why}'
    return ApiError(409, message, details={"name": name, "kind": resource})


def invalid(kind: str, name: str, causes: Sequence[str]) -> ApiError:
    """Returns the 422 of an object; every cause reads `field: what is wrong`."""
    message = f'{kind} "{name}" is invalid: ' + (
        causes[0] if len(causes) == 1 else f"[{', '.join(causes)}]"
    )
    details = {
        "name": name,
        "kind": kind,
        "causes": [
            {"field": field, "message": text, "reason": "FieldValueInvalid"}
            for field, _, text in (cause.partition(": ") for cause in causes)
        ],
    }
    return ApiError(422, message, details=details)


def expired(message: str) -> ApiError:
    """Returns the 410 of a resource version or continue token the server has forgotten."""
    return ApiError(410, message)
