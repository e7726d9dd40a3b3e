"""`florence submit`: from a job file to a running job."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from florence.cli.jobs import Backend, BackendOption, fail, print_logs
from florence.cli.output import console, duration, error_console, print_fields
from florence.launch.manifest import JobManifest, to_yaml
from florence.launch.status import JobState
from florence.sdk import FlorenceClient
from florence.util.errors import FlorenceError

_OUTCOMES = {
    "started": "started",
    "resumed": "started again, continues from its last checkpoint",
    "live": "is running already",
    "done": "has succeeded already; --rerun starts it anew",
}


def submit(
    context: typer.Context,
    job: Annotated[Path, typer.Argument(help="A job file, or a PyTorchJob manifest.")],
    backend: Backend = BackendOption.LOCAL,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Print its output until it ends.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the manifest and start nothing.")
    ] = False,
    rerun: Annotated[
        bool, typer.Option("--rerun", help="Start a finished job again from the beginning.")
    ] = False,
) -> None:
    """Start a job. Any field of the job file can be set: --section.field value.

    The same run is the same job: submitting it twice starts it once, and a job that failed or was
    killed continues from its last checkpoint.
    """
    client = FlorenceClient(backend=backend.value)
    if dry_run:
        manifest = client.render(job, context.args)
        print(to_yaml(manifest.documents), end="")
        _print_diff(client, manifest)
        return
    submitted = client.submit(job, context.args, rerun=rerun)
    handle = submitted.job
    console().print(f"[bold]{handle.name}[/bold] {_OUTCOMES[submitted.outcome]}")
    if not follow:
        console().print(f"follow it: florence jobs logs {handle.reference} --follow")
        return
    if submitted.outcome != "done":
        print_logs(handle, follow=True)
    status = handle.wait()
    if status.state is JobState.FAILED:
        fail(handle, status)
    console().print(
        f"[bold]{status.name}[/bold] {status.state} in {duration(status.started, status.finished)}"
    )
    print_fields(handle.summary() or {})


def _print_diff(client: FlorenceClient, manifest: JobManifest) -> None:
    """Tells on standard error what is to change; without a cluster there is still the manifest."""
    try:
        diff = client.diff(manifest)
    except FlorenceError as error:
        diff = f"not compared with the cluster: {error}"
    if diff:
        error_console().print(diff, markup=False)
