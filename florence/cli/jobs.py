"""`florence jobs`: list, status, logs, wait, cancel."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer
from rich.text import Text

from florence.cli.output import (
    EXIT_JOB_FAILED,
    EXIT_TIMEOUT,
    console,
    duration,
    error_console,
    print_fields,
    print_json,
    print_table,
)
from florence.launch.backend import FINISHED
from florence.launch.status import JobState, JobStatus
from florence.sdk import FlorenceClient, Job

app = typer.Typer(no_args_is_help=True)


class BackendOption(StrEnum):
    """Where jobs run."""

    LOCAL = "local"
    KUBERNETES = "kubernetes"


Name = Annotated[str, typer.Argument(help="Name of the job, or of its run for the newest one.")]
Backend = Annotated[BackendOption, typer.Option(help="Where the job runs.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


@app.command("list")
def list_(backend: Backend = BackendOption.LOCAL, as_json: Json = False) -> None:
    """List every job, the newest first."""
    jobs = FlorenceClient(backend=backend.value).jobs()
    if as_json:
        print_json(jobs)
    elif jobs:
        print_table(("NAME", "KIND", "STATE", "TIME"), (_row(job) for job in jobs))
    else:
        error_console().print("no jobs; start one with: florence submit JOB.yaml")


@app.command()
def status(name: Name, backend: Backend = BackendOption.LOCAL, as_json: Json = False) -> None:
    """Show one job: its state, why it is in it, and its pods."""
    job = FlorenceClient(backend=backend.value).job(name).status()
    if as_json:
        print_json(job)
    else:
        print_status(job)


@app.command()
def logs(
    name: Name,
    backend: Backend = BackendOption.LOCAL,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until it ends.")] = False,
    tail: Annotated[int | None, typer.Option(min=0, help="Only each pod's last lines.")] = None,
) -> None:
    """Print the output of a job's pods; Ctrl-C leaves the job running."""
    job = FlorenceClient(backend=backend.value).job(name)
    print_logs(job, follow=follow, tail=tail)


@app.command()
def wait(
    name: Name,
    backend: Backend = BackendOption.LOCAL,
    state: Annotated[
        JobState | None, typer.Option(help="Wait for this state; by default for the end.")
    ] = None,
    timeout: Annotated[float | None, typer.Option(min=0, help="Seconds to wait at most.")] = None,
) -> None:
    """Wait for a job; exit code 3 when it failed, 4 when the time was up."""
    job = FlorenceClient(backend=backend.value).job(name)
    try:
        reached = job.wait(states={state} if state else FINISHED, timeout=timeout)
    except TimeoutError:
        error_console().print(f"error: {job.name} was not there after {timeout:g} s", style="red")
        raise typer.Exit(EXIT_TIMEOUT) from None
    console().print(f"{reached.name} {reached.state}")
    if reached.state is JobState.FAILED and state is not JobState.FAILED:
        fail(reached)


@app.command()
def cancel(name: Name, backend: Backend = BackendOption.LOCAL) -> None:
    """End a job; its checkpoints stay, and submitting it again continues from them."""
    job = FlorenceClient(backend=backend.value).job(name)
    console().print(f"{job.name} {job.cancel().state}")


def print_status(job: JobStatus) -> None:
    """Prints one job and its pods."""
    print_fields(
        {
            "name": job.name,
            "kind": job.kind,
            "state": f"{job.state} ({job.reason})" if job.reason else job.state,
            "message": job.message,
            "created": job.created,
            "time": duration(job.started, job.finished),
            "restarts": job.restarts or None,
        }
    )
    rows = ((p.name, p.phase, "" if p.exit_code is None else p.exit_code) for p in job.pods)
    print_table(("POD", "PHASE", "EXIT CODE"), rows)


def print_logs(job: Job, *, follow: bool, tail: int | None = None) -> None:
    """Prints the lines of a job's pods, each after the part of its pod's name that differs."""
    out = console()
    try:
        for pod, line in job.logs(follow=follow, tail=tail):
            label = pod.removeprefix(f"{job.name}-")
            out.print(Text.assemble((f"{label} | ", "dim"), line))
    except KeyboardInterrupt:
        error_console().print(
            f"\nleft; the job goes on: florence jobs logs {job.name} --follow, "
            f"or end it: florence jobs cancel {job.name}"
        )
        raise typer.Exit(0) from None


def fail(job: JobStatus) -> None:
    """Says on standard error why a job failed and ends with that exit code."""
    error_console().print(
        f"error: {job.name} failed: {job.message or job.reason}", style="red", markup=False
    )
    error_console().print(f"see: florence jobs logs {job.name} --tail 50")
    raise typer.Exit(EXIT_JOB_FAILED)


def _row(job: JobStatus) -> tuple[object, ...]:
    return job.name, job.kind, job.state, duration(job.started, job.finished)
