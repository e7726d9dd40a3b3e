"""`florence doctor`: is everything there that a job needs?"""

from __future__ import annotations

import typer
from rich.text import Text

from florence.cli.jobs import Backend, BackendOption, Namespace
from florence.cli.output import console
from florence.sdk import FlorenceClient
from florence.util.errors import EXIT_USER


def doctor(backend: Backend = BackendOption.LOCAL, namespace: Namespace = None) -> None:
    """Look at what jobs need here and say what to do about what is missing; exit code 2 then."""
    out, healthy = console(), True
    for finding in FlorenceClient(backend=backend.value, namespace=namespace).examine():
        healthy = healthy and finding.ok
        mark = ("ok  ", "green") if finding.ok else ("fail", "red")
        out.print(Text.assemble(mark, f"  {finding.name:<12} {finding.detail}"))
        if not finding.ok:
            out.print(Text(f"{'':<19}-> {finding.remedy}"))
    raise typer.Exit(0 if healthy else EXIT_USER)
