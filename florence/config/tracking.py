"""Where a run's experiment, metrics and model versions are kept (MLflow)."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field, PositiveInt

from florence.config.base import Section


def check_tracking_uri(uri: str) -> str:
    """Returns `uri` when MLflow can keep runs there; otherwise a ValueError says what it can."""
    if re.fullmatch(r"sqlite:///[^?#]+|https?://[^/@\s]+(/[^@\s]*)?", uri):
        return uri
    shown = re.sub(r"//[^/]*@", "//***@", uri)
    raise ValueError(
        f"{shown!r} is no MLflow store; allowed: sqlite:///FILE.db, http(s)://HOST[:PORT] "
        "(user and password go into MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD)"
    )


class TrackingConfig(Section):
    """The MLflow store of a run; secrets stay in MLflow's own environment variables."""

    uri: Annotated[str, AfterValidator(check_tracking_uri)] = Field(
        "sqlite:///mlruns/mlflow.db", description="tracking and registry store: sqlite:/// or http"
    )
    experiment: str = Field("florence", min_length=1)
    registered_model: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="name the trained model is registered under; null = not registered",
    )
    system_metrics: bool = Field(True, description="log CPU, memory and GPU use of rank 0's node")
    log_every: PositiveInt = Field(10, description="steps between logged metrics")
