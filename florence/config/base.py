"""The base of every section of a job file: frozen, no unknown fields, finite numbers."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """An immutable part of a run; an unknown field or a NaN is an error, never ignored."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True
    )
