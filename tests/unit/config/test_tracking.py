"""A run's store is checked when the job file is read, not when the job starts."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from florence.config.tracking import TrackingConfig


@pytest.mark.parametrize(
    "uri",
    [
        "sqlite:///mlruns/mlflow.db",
        "sqlite:////tmp/a folder/mlflow.db",
        "http://mlflow:5000",
        "https://tracking.example.org/mlflow",
    ],
)
def test_accepts_sqlite_and_servers(uri: str) -> None:
    assert TrackingConfig(uri=uri).uri == uri


@pytest.mark.parametrize(
    "uri", ["", "mlruns", "file:///tmp/mlruns", "sqlite:///", "sqlite:///a?b", "ftp://x", "http://"]
)
def test_refuses_other_stores_and_says_what_is_allowed(uri: str) -> None:
    with pytest.raises(ValidationError, match=r"uri\n.*allowed: sqlite:///FILE.db, http"):
        TrackingConfig(uri=uri)


def test_refuses_a_password_without_repeating_it() -> None:
    with pytest.raises(ValidationError) as caught:
        TrackingConfig(uri="https://me:s3cret@mlflow.example.org")
    assert "MLFLOW_TRACKING_PASSWORD" in caught.value.errors()[0]["msg"]
    assert "s3cret" not in caught.value.errors()[0]["msg"]


@pytest.mark.parametrize("name", ["a/b", "a@b", "a:b", ""])
def test_refuses_model_names_a_model_uri_cannot_hold(name: str) -> None:
    with pytest.raises(ValidationError, match="registered_model"):
        TrackingConfig(registered_model=name)
