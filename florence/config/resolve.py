"""Resolves a job file into a run, once, on the submitter: defaults < file < environment < flags.

`FLORENCE_SECTION__FIELD` and `--section.field value` reach every field. pydantic-settings merges
the layers; because it ignores names it does not know, every name is checked against the schema
first, so that a misspelt variable or flag is refused instead of lost.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_settings import (
    BaseSettings,
    CliSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from florence.config.cluster import ClusterConfig
from florence.config.run import RUN_ADAPTER, AnyRun, CurateRun, EvaluateRun, TrainRun
from florence.config.tracking import TrackingConfig
from florence.util.errors import UserError, nearest

ENV_PREFIX = "FLORENCE_"
_RUN_CLASSES: dict[str, type[BaseModel]] = {
    "train": TrainRun,
    "evaluate": EvaluateRun,
    "curate": CurateRun,
}
_LAYERS = SettingsConfigDict(
    env_prefix=ENV_PREFIX,
    env_nested_delimiter="__",
    env_parse_none_str="null",
    cli_parse_none_str="null",
    cli_exit_on_error=False,
)


class ClientSettings(BaseSettings):
    """What verbs without a job file need; the same variables as a run's own fields."""

    model_config = SettingsConfigDict(**{**_LAYERS, "extra": "ignore"})

    runs_dir: str = "runs"
    tracking: TrackingConfig = TrackingConfig()
    cluster: ClusterConfig = ClusterConfig()


def resolve(path: str | Path, overrides: Sequence[str] = ()) -> AnyRun:
    """Returns the run a job file describes under the environment and `--section.field value` flags.

    Raises UserError naming the field, the value found and what is allowed.
    """
    data = read_yaml(path)
    kind = data.get("kind")
    if kind not in _RUN_CLASSES:
        raise UserError(f"{path}: kind is {kind!r}; allowed: {', '.join(_RUN_CLASSES)}")
    run_class = _RUN_CLASSES[kind]
    check_environment()
    for flag in _flags(overrides):
        _check_name(run_class, flag.removeprefix("--").split("."), shown=f"flag {flag}")
    try:
        merged = _layered(run_class, data, overrides)
        return RUN_ADAPTER.validate_python(merged.model_dump(exclude_unset=True))
    except SettingsError as error:
        raise UserError(f"{path}: {error}") from None
    except ValidationError as error:
        raise UserError(f"{path}: {describe(error, run_class)}") from None


def load_run(path: str | Path) -> AnyRun:
    """Returns the resolved run a worker was given; nothing but the file is read."""
    try:
        return RUN_ADAPTER.validate_python(read_yaml(path))
    except ValidationError as error:
        raise UserError(f"{path}: {describe(error, TrainRun)}") from None


def client_settings() -> ClientSettings:
    """Returns where jobs and models are kept, from `FLORENCE_*` variables and defaults."""
    check_environment()
    try:
        return ClientSettings()
    except (ValidationError, SettingsError) as error:
        raise UserError(f"environment: {error}") from None


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Reads a YAML mapping; UserError when it is missing, not YAML, or repeats a key."""
    try:
        data = yaml.load(read_text(path), Loader=_UniqueKeyLoader)  # a SafeLoader
    except yaml.YAMLError as error:
        raise UserError(f"{path}: is not valid YAML ({error})") from None
    if not isinstance(data, dict):
        raise UserError(f"{path}: must hold a mapping of fields, found {type(data).__name__}")
    return data


def read_text(path: str | Path) -> str:
    """Reads a text file; UserError when it cannot be read or is not UTF-8."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None


def check_environment(environ: Mapping[str, str] = os.environ) -> None:
    """Raises UserError when a `FLORENCE_*` variable names no field of any run."""
    for name in environ:
        if name.upper().startswith(ENV_PREFIX):
            keys = name[len(ENV_PREFIX) :].lower().split("__")
            _check_name(AnyRun, keys, shown=f"environment variable {name}")


def describe(error: ValidationError, model: Any) -> str:
    """Returns one line per invalid field: its path, what was found and what is allowed."""
    return "; ".join(_describe_one(dict(item), model) for item in error.errors())


def _describe_one(item: dict[str, Any], model: Any) -> str:
    keys = [part for part in item["loc"] if part not in _RUN_CLASSES]
    where = ".".join(str(part) for part in keys)
    if item["type"] == "extra_forbidden":
        siblings = _fields(_descend(model, [str(key) for key in keys[:-1]]))
        return f"unknown field {where}{nearest(str(keys[-1]), siblings)}"
    if item["type"] == "missing":
        return f"field {where} is missing"
    message = item["msg"].removeprefix("Value error, ")
    if item["type"] == "value_error":
        return f"{where}: {message}" if where else message
    return f"{where} = {item['input']!r}: {message}"


def _layered(run_class: type[BaseModel], data: dict[str, Any], flags: Sequence[str]) -> BaseModel:
    """Merges file, environment and flags; the later the stronger."""

    class Layered(run_class, BaseSettings):  # type: ignore[misc, valid-type]  # a dynamic base
        model_config = _LAYERS

        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003  # the library's signature
            file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            cli: CliSettingsSource[Any] = CliSettingsSource(settings_cls, cli_parse_args=[*flags])
            return cli, env_settings, init_settings

    merged: BaseModel = Layered(**data)
    return merged


def _flags(overrides: Sequence[str]) -> Iterator[str]:
    expects_value = False
    for word in overrides:
        if expects_value:
            expects_value = False
        elif word.startswith("--"):
            flag, equals, _ = word.partition("=")
            expects_value = not equals
            yield flag
        else:
            raise UserError(f"unexpected argument {word!r}; overrides are --section.field value")
    if expects_value:
        raise UserError(f"flag {overrides[-1]} needs a value")


def _check_name(model: Any, keys: Sequence[str], *, shown: str) -> None:
    for depth, key in enumerate(keys):
        allowed = _fields(_descend(model, keys[:depth]))
        if key not in allowed:
            where = ".".join(keys[: depth + 1])
            raise UserError(f"{shown}: unknown field {where}{nearest(key, allowed)}")


def _descend(model: Any, keys: Sequence[str]) -> Any:
    for key in keys:
        annotations = [m.model_fields[key].annotation for m in _models(model) if key in _fields(m)]
        model = annotations[0] if len(annotations) == 1 else tuple(annotations)
    return model


def _models(annotation: Any) -> list[type[BaseModel]]:
    """Returns the schemas inside an annotation: itself, a union's members, a tuple's items."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    parts = annotation if isinstance(annotation, tuple) else get_args(annotation)
    return [model for part in parts for model in _models(part)]


def _fields(annotation: Any) -> set[str]:
    return {name for model in _models(annotation) for name in model.model_fields}


class _UniqueKeyLoader(yaml.SafeLoader):
    """A safe loader that refuses a repeated key, which YAML parsers silently overwrite."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"found the key {key!r} twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)
