"""The errors a user or an orchestrator sees, each with the exit code it ends a process with.

Exit codes follow the training operator's `restartPolicy: ExitCode`: 1-127 is permanent, 128 and
above is retried. A user's mistake is therefore never retried and a lost machine always is.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

EXIT_BUG = 1
"""An exception nobody foresaw: permanent, with its traceback in the log."""
EXIT_USER = 2
"""Bad input: permanent, one sentence, no traceback."""
EXIT_INFRASTRUCTURE = 129
"""A fault of a machine, network or storage: retried."""
EXIT_PREEMPTED = 143
"""Ended by SIGTERM after saving: retried."""


class FlorenceError(Exception):
    """Base of every error raised on purpose; `exit_code` is the code a process ends with."""

    exit_code = EXIT_BUG


class UserError(FlorenceError):
    """Input that cannot work: names the field or file, what was found and what is allowed."""

    exit_code = EXIT_USER


class InfrastructureError(FlorenceError):
    """A fault outside the job: trying again can succeed."""

    exit_code = EXIT_INFRASTRUCTURE


class PreemptedError(FlorenceError):
    """The job was asked to end (SIGTERM) and has saved its state: trying again continues it."""

    exit_code = EXIT_PREEMPTED


def nearest(name: str, allowed: Iterable[str]) -> str:
    """Returns a hint such as `; did you mean 'lr'? Allowed: eps, lr`, empty if none is allowed."""
    names = sorted(allowed)
    if not names:
        return ""
    by_lower = {candidate.lower(): candidate for candidate in names}
    (close,) = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.0)
    return f"; did you mean {by_lower[close]!r}? Allowed: {', '.join(names)}"
