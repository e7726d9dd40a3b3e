"""The `florence` command.

Exit codes: 0 done, 1 a bug, 2 the user's mistake, 3 the job failed, 4 waited too long, 129 a fault
of storage or network that may pass.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from florence.cli import jobs, models
from florence.cli.doctor import doctor
from florence.cli.manifests import render
from florence.cli.output import error_console
from florence.cli.submit import submit
from florence.util.errors import FlorenceError

app = typer.Typer(
    name="florence",
    help="Pretrain, adapt, evaluate and register Florence models, here or on Kubernetes.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(submit)
app.command()(doctor)
app.command()(render)
app.add_typer(jobs.app, name="jobs", help="List, watch and end jobs.")
app.add_typer(models.app, name="models", help="List and show registered models.")


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        from florence import __version__

        typer.echo(__version__)
        raise typer.Exit


def main() -> None:
    """Runs the command; a known fault becomes one `error:` line and its exit code."""
    try:
        app()
    except FlorenceError as error:
        error_console().print(f"error: {error}", style="red", markup=False, highlight=False)
        sys.exit(error.exit_code)
