"""Writes a run's metrics and tags in the background, in order and without loss.

MLflow's own asynchronous logging writes with several threads and drops a batch that fails: a killed
job could leave later steps in the store without earlier ones, and its next attempt, which records
only what comes after the last recorded step, would never fill the hole.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable

from mlflow import MlflowClient
from mlflow.entities import Metric, RunTag
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from florence.tracking.store import is_transient, store_errors

logger = logging.getLogger(__name__)

_BATCH = 1000  # MLflow's limit of one request
_RETRY_SECONDS = 5.0


class RunWriter:
    """A queue and one thread; a store that is away for a while costs neither time nor data."""

    def __init__(self, client: MlflowClient, *, run_id: str) -> None:
        self._client = client
        self._run_id = run_id
        self._pending: list[Metric | RunTag] = []
        self._changed = threading.Condition()
        self._flushing = threading.Event()
        self._closed = False
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._write_all, name="tracking", daemon=True)
        self._thread.start()

    def put(self, entries: Iterable[Metric | RunTag]) -> None:
        """Queues and returns at once; raises UserError when the store refused an earlier entry."""
        self._raise_error()
        with self._changed:
            self._pending.extend(entries)
            self._changed.notify_all()

    def flush(self) -> None:
        """Returns once the store has everything; raises InfrastructureError when it cannot."""
        self._flushing.set()
        with self._changed:
            self._changed.wait_for(lambda: self._error is not None or not self._pending)
        self._flushing.clear()
        self._raise_error()

    def close(self) -> None:
        """Flushes and ends the thread; raises as `flush` does."""
        try:
            self.flush()
        finally:
            with self._changed:
                self._closed = True
                self._changed.notify_all()
            self._thread.join()

    def _raise_error(self) -> None:
        if self._error is not None:
            with store_errors(self._client.tracking_uri):
                raise self._error

    def _write_all(self) -> None:
        while batch := self._next_batch():
            error = self._write(batch)
            if error is None:
                with self._changed:
                    del self._pending[: len(batch)]
                    self._changed.notify_all()
            elif is_transient(error) and not self._flushing.is_set():
                logger.warning("metrics are kept until the tracking store answers: %s", error)
                self._flushing.wait(_RETRY_SECONDS)
            else:
                with self._changed:
                    self._error = error
                    self._changed.notify_all()
                return

    def _next_batch(self) -> list[Metric | RunTag]:
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._pending)
            return self._pending[:_BATCH]

    def _write(self, batch: list[Metric | RunTag]) -> Exception | None:
        tags = {entry.key: entry for entry in batch if isinstance(entry, RunTag)}
        metrics = [entry for entry in batch if isinstance(entry, Metric)]
        try:
            self._client.log_batch(self._run_id, metrics=metrics, tags=list(tags.values()))
        except (MlflowException, OSError, SQLAlchemyError) as error:
            return error
        return None
