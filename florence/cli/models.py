"""`florence models`: list, show."""

from __future__ import annotations

from typing import Annotated

import typer

from florence.cli.jobs import Json
from florence.cli.output import error_console, print_fields, print_json, print_table
from florence.sdk import FlorenceClient

app = typer.Typer(no_args_is_help=True)


@app.command("list")
def list_(as_json: Json = False) -> None:
    """List the registered models."""
    models = FlorenceClient().models()
    if as_json:
        print_json(models)
    elif models:
        rows = (
            (m.name, m.latest_version, _aliases(m.aliases), f"{m.updated:%Y-%m-%d %H:%M}")
            for m in models
        )
        print_table(("NAME", "VERSIONS", "ALIASES", "UPDATED"), rows)
    else:
        error_console().print("no models; a train job with tracking.registered_model registers one")


@app.command()
def show(
    model: Annotated[str, typer.Argument(help="NAME (the newest), NAME@ALIAS or NAME/VERSION.")],
    as_json: Json = False,
) -> None:
    """Show one version of a model: figures, lineage and how to load it."""
    version = FlorenceClient().model(model)
    if as_json:
        print_json(version)
        return
    print_fields(
        {
            "name": version.name,
            "version": version.version,
            "aliases": ", ".join(version.aliases),
            "created": f"{version.created:%Y-%m-%d %H:%M} UTC",
            "description": version.description,
            **{f"metric {name}": f"{value:.6g}" for name, value in version.metrics.items()},
            **{f"tag {name}": value for name, value in version.tags.items()},
            "load it": f'mlflow.pyfunc.load_model("{version.uri}")',
        }
    )


def _aliases(aliases: object) -> str:
    assert isinstance(aliases, dict)
    return ", ".join(f"{alias} -> {number}" for alias, number in sorted(aliases.items()))
