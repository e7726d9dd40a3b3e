"""`florence jobs`: list, status, events, logs, wait, suspend, resume, cancel."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

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
from florence.util.errors import FlorenceError

app = typer.Typer(no_args_is_help=True)


class BackendOption(StrEnum):
    """Where jobs run."""

    LOCAL = "local"
    KUBERNETES = "kubernetes"


Name = Annotated[str, typer.Argument(help="Name of the job, or of its run for the newest one.")]
Backend = Annotated[BackendOption, typer.Option(help="Where the job runs.")]
Namespace = Annotated[
    str | None,
    typer.Option("--namespace", "-n", help="On Kubernetes; default: FLORENCE_CLUSTER__NAMESPACE."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


@app.command("list")
def list_(
    backend: Backend = BackendOption.LOCAL,
    namespace: Namespace = None,
    selector: Annotated[
        str | None,
        typer.Option("--selector", "-l", help="Labels, on Kubernetes; '' = all PyTorchJobs."),
    ] = None,
    as_json: Json = False,
) -> None:
    """List every job, the newest first."""
    jobs = FlorenceClient(backend=backend.value, namespace=namespace).jobs(selector=selector)
    if as_json:
        print_json(jobs)
    elif jobs:
        print_table(("NAME", "KIND", "STATE", "TIME"), (_row(job) for job in jobs))
    else:
        error_console().print("no jobs; start one with: florence submit JOB.yaml")


@app.command()
def status(
    name: Name,
    backend: Backend = BackendOption.LOCAL,
    namespace: Namespace = None,
    as_json: Json = False,
) -> None:
    """Show one job: its state, what it waits for, how far it is, and its pods."""
    job = _job(name, backend, namespace)
    status = job.status()
    if as_json:
        print_json(status)
    else:
        print_status(status, progress=_progress(job, status))


@app.command()
def events(
    name: Name,
    backend: Backend = BackendOption.LOCAL,
    namespace: Namespace = None,
    as_json: Json = False,
) -> None:
    """Show what happened to a job and its pods, the oldest first."""
    found = _job(name, backend, namespace).events()
    if as_json:
        print_json(found)
        return
    rows = (
        (f"{e.time:%m-%d %H:%M:%S}" if e.time else "", e.type, e.object, e.reason, e.message)
        for e in found
    )
    print_table(("TIME (UTC)", "TYPE", "OBJECT", "REASON", "MESSAGE"), rows)


@app.command()
def logs(
    name: Name,
    backend: Backend = BackendOption.LOCAL,
    namespace: Namespace = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until it ends.")] = False,
    tail: Annotated[int | None, typer.Option(min=0, help="Only each pod's last lines.")] = None,
    previous: Annotated[
        bool, typer.Option("--previous", help="Of the containers before their last restart.")
    ] = False,
    rank: Annotated[int | None, typer.Option(min=0, help="Only the pod of this node.")] = None,
) -> None:
    """Print the output of a job's pods; Ctrl-C leaves the job running."""
    job = _job(name, backend, namespace)
    print_logs(job, follow=follow, tail=tail, previous=previous, rank=rank)


@app.command()
def wait(
    name: Name,
    backend: Backend = BackendOption.LOCAL,
    namespace: Namespace = None,
    state: Annotated[
        JobState | None, typer.Option(help="Wait for this state; by default for the end.")
    ] = None,
    timeout: Annotated[float | None, typer.Option(min=0, help="Seconds to wait at most.")] = None,
) -> None:
    """Wait for a job; exit code 3 when it failed, 4 when the time was up."""
    job = _job(name, backend, namespace)
    try:
        reached = job.wait(states={state} if state else FINISHED, timeout=timeout)
    except TimeoutError:
        error_console().print(f"error: {job.name} was not there after {timeout:g} s", style="red")
        raise typer.Exit(EXIT_TIMEOUT) from None
    console().print(f"{reached.name} {reached.state}")
    if reached.state is JobState.FAILED and state is not JobState.FAILED:
        fail(job, reached)


@app.command()
def suspend(
    name: Name, backend: Backend = BackendOption.LOCAL, namespace: Namespace = None
) -> None:
    """End a job's pods and keep the job, until it is resumed."""
    job = _job(name, backend, namespace)
    console().print(f"{job.name} {job.suspend().state}")


@app.command()
def resume(name: Name, backend: Backend = BackendOption.LOCAL, namespace: Namespace = None) -> None:
    """Let a suspended job run again, from its last checkpoint."""
    job = _job(name, backend, namespace)
    console().print(f"{job.name} {job.resume().state}")


@app.command()
def cancel(name: Name, backend: Backend = BackendOption.LOCAL, namespace: Namespace = None) -> None:
    """End a job; its checkpoints stay, and submitting it again continues from them.

    On Kubernetes the job is deleted, with its pods and their logs.
    """
    job = _job(name, backend, namespace)
    console().print(f"{job.name} {job.cancel().state}")


def print_status(job: JobStatus, *, progress: str = "") -> None:
    """Prints one job and its pods."""
    print_fields(
        {
            "name": job.name,
            "kind": job.kind,
            "state": f"{job.state} ({job.reason})" if job.reason else job.state,
            "message": job.message,
            "progress": progress,
            "created": job.created,
            "time": duration(job.started, job.finished),
            "restarts": job.restarts or None,
        }
    )
    rows = ((p.name, p.phase, "" if p.exit_code is None else p.exit_code) for p in job.pods)
    print_table(("POD", "PHASE", "EXIT CODE"), rows)


def print_logs(
    job: Job,
    *,
    follow: bool,
    tail: int | None = None,
    previous: bool = False,
    rank: int | None = None,
) -> None:
    """Prints the lines of a job's pods, each after the part of its pod's name that differs."""
    dim, plain = ("\x1b[2m", "\x1b[0m") if console().is_terminal else ("", "")
    try:
        for pod, line in job.logs(follow=follow, tail=tail, previous=previous, rank=rank):
            label = pod.removeprefix(f"{job.name}-")
            print(f"{dim}{label} | {plain}{line}", flush=True)  # rich takes 50 us a line
    except KeyboardInterrupt:
        error_console().print(
            f"\nleft; the job goes on: florence jobs logs {job.reference} --follow, "
            f"or end it: florence jobs cancel {job.reference}"
        )
        raise typer.Exit(0) from None


def fail(job: Job, status: JobStatus) -> None:
    """Says on standard error why a job failed and ends with that exit code."""
    error_console().print(
        f"error: {job.name} failed: {status.message or status.reason}", style="red", markup=False
    )
    error_console().print(f"see: florence jobs logs {job.reference} --tail 50")
    raise typer.Exit(EXIT_JOB_FAILED)


def _job(name: str, backend: BackendOption, namespace: str | None) -> Job:
    return FlorenceClient(backend=backend.value, namespace=namespace).job(name)


def _progress(job: Job, status: JobStatus) -> str:
    """Returns how far a running training job is; the store's faults are no reason to fail."""
    if status.kind != "train" or status.state not in (JobState.RUNNING, JobState.RESTARTING):
        return ""
    try:
        progress = job.progress()
    except FlorenceError as error:
        return f"not known: {error}"
    if progress is None:
        return ""
    total = f" of {progress.total_steps}" if progress.total_steps else ""
    rate = progress.samples_per_second
    speed = f", {rate:.0f} samples/s" if rate else ""
    left = progress.left
    return f"step {progress.step}{total}{speed}" + (f", {left} left" if left else "")


def _row(job: JobStatus) -> tuple[object, ...]:
    return job.name, job.kind, job.state, duration(job.started, job.finished)
