"""`florence render`: the committed manifests in k8s/jobs, made from jobs/."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from florence.cli.output import console, error_console
from florence.launch.manifest import to_yaml
from florence.sdk import FlorenceClient

_HEADER = "# Rendered from {source} by `florence render`; edit that file instead.\n"


def render(
    check: Annotated[
        bool,
        typer.Option(
            "--check", help="Write nothing; exit code 1 when a file is not as it should be."
        ),
    ] = False,
    jobs: Annotated[Path, typer.Option(help="Folder of the job files.")] = Path("jobs"),
    output: Annotated[Path, typer.Option(help="Folder of the manifests.")] = Path("k8s/jobs"),
) -> None:
    """Write the PyTorchJob of every job file, for kubectl apply."""
    wanted = {
        output / path.relative_to(jobs): _render(path) for path in sorted(jobs.rglob("*.yaml"))
    }
    stale = sorted(set(output.rglob("*.yaml")) - set(wanted))
    drifted = [
        path for path, text in wanted.items() if not path.is_file() or path.read_text() != text
    ]
    if check:
        for path in [*drifted, *stale]:
            error_console().print(
                f"error: {path} is not what jobs/ renders to; run: florence render"
            )
        raise typer.Exit(1 if drifted or stale else 0)
    for path in drifted:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(wanted[path])
        console().print(f"wrote {path}")
    for path in stale:
        path.unlink()
        console().print(f"removed {path}")


def _render(path: Path) -> str:
    manifest = FlorenceClient(backend="kubernetes").render(path)
    return _HEADER.format(source=path) + to_yaml(manifest.documents)
