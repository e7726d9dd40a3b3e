"""How results are printed: tables and figures for people, JSON for programs."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from rich.console import Console
from rich.table import Table

_PIPED_WIDTH = 1000
EXIT_JOB_FAILED = 3
EXIT_TIMEOUT = 4


def console() -> Console:
    """Standard output; when it is piped, plain text in lines of any length."""
    width = None if sys.stdout.isatty() else _PIPED_WIDTH
    return Console(highlight=False, soft_wrap=True, width=width)


def error_console() -> Console:
    """Standard error; plain text when it is piped."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


def print_table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Prints rows under headers, one line each."""
    table = Table(*headers, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    console().print(table)


def print_fields(fields: Mapping[str, object]) -> None:
    """Prints names and values in two columns; what is empty is left out."""
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in fields.items():
        if value not in (None, "", (), {}):
            table.add_row(f"[bold]{name}[/bold]", str(value))
    console().print(table)


def print_json(value: Any) -> None:
    """Prints dataclasses, tuples and times as JSON."""
    print(json.dumps(value, default=_plain, indent=2))


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Mapping):
        return dict(value)
    return list(value)


def duration(start: datetime | None, end: datetime | None) -> str:
    """Returns the time between two moments as h:mm:ss, up to now for a missing end."""
    if start is None:
        return ""
    seconds = ((end or datetime.now(start.tzinfo)) - start).total_seconds()
    return str(timedelta(seconds=round(seconds)))
