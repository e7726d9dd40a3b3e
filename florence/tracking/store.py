"""The MLflow store: its address, reaching it, creating a local one, and naming its faults."""

from __future__ import annotations

import fcntl
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mlflow
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from florence.config.tracking import check_tracking_uri
from florence.util.errors import InfrastructureError, UserError

_SQLITE = "sqlite:///"
_ANSWER_WITHIN = 10.0


def sqlite_path(uri: str) -> Path | None:
    """Returns the absolute path of the file behind `uri`, or None for a server's address."""
    return Path(uri.removeprefix(_SQLITE)).resolve() if uri.startswith(_SQLITE) else None


def store_exists(uri: str) -> bool:
    """Whether there is something to read; asking does not create a local store."""
    path = sqlite_path(uri)
    return path is None or path.exists()


def connect(uri: str) -> MlflowClient:
    """Returns a client of the store, which becomes MLflow's current one; a local one is created.

    Raises UserError for an address that is none, InfrastructureError when nothing answers there.
    """
    try:
        check_tracking_uri(uri)
    except ValueError as error:
        raise UserError(f"tracking.uri: {error}") from None
    path = sqlite_path(uri)
    if path is None:
        _check_answers(uri)
    else:
        uri = f"{_SQLITE}{path}"
    with store_errors(uri), exclusive(uri):  # two processes that make tables at once both fail
        mlflow.set_tracking_uri(uri)
        client = MlflowClient(tracking_uri=uri)
        client.search_experiments(max_results=1)
    return client


def _check_answers(uri: str) -> None:
    """Fails within seconds where MLflow itself would retry for minutes before it gives up."""
    try:
        urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=_ANSWER_WITHIN).close()
    except urllib.error.HTTPError:
        return  # an answer, whatever it says
    except OSError as error:
        reason = getattr(error, "reason", error)
        if not isinstance(reason, ssl.SSLError):  # certificates are MLflow's own settings' matter
            raise InfrastructureError(
                f"the tracking store {uri} (tracking.uri) does not answer: {reason}"
            ) from error


def is_transient(error: Exception) -> bool:
    """Whether the same request may succeed later: a fault of the store, not of the request."""
    if isinstance(error, MlflowException):
        status: int = error.get_http_status_code()
        return status >= 500 or status == 429
    return isinstance(error, OSError | SQLAlchemyError)


@contextmanager
def store_errors(uri: str) -> Iterator[None]:
    """Raises the store's faults as InfrastructureError and its refusals as UserError."""
    try:
        yield
    except (MlflowException, OSError, SQLAlchemyError) as error:
        if is_transient(error):
            raise InfrastructureError(f"the tracking store {uri} failed: {error}") from error
        raise UserError(f"the tracking store {uri} refused: {error}") from error


@contextmanager
def exclusive(uri: str) -> Iterator[None]:
    """Keeps other processes of this machine out of a local store meanwhile.

    A server needs no lock: there, the operator runs one master pod per job.
    """
    path = sqlite_path(uri)
    if path is None:
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
