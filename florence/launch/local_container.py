"""Runs one container as a process tree: `python -m florence.launch.local_container GRACE COMMAND`.

As in a container, everything the command started ends with it, its exit code is 128 + n after
signal n, and SIGTERM becomes SIGKILL after GRACE seconds. Nothing outlives the supervisor, either.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Sequence

from florence.util.process import adopt_orphans, end_descendants, ends_with_parent

PARENT_ENDED = signal.SIGHUP
"""The supervisor asks for this signal in case it is killed: the container ends at once."""
_EXIT_CANNOT_START = 127


def run_container(command: Sequence[str], *, grace: float) -> int:
    """Runs a command until it ends or is told to, ends what it left behind, returns its code."""
    adopt_orphans()
    # Held back until there is something to hand them on to.
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, PARENT_ENDED])
    try:
        process = subprocess.Popen(command, process_group=0, preexec_fn=ends_with_parent())
    except OSError as error:
        print(f"error: the command {command[0]!r} cannot start: {error.strerror}", flush=True)
        return _EXIT_CANNOT_START

    def send(number: signal.Signals) -> None:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)

    def terminate(*_: object) -> None:
        send(signal.SIGTERM if grace > 0 else signal.SIGKILL)
        signal.setitimer(signal.ITIMER_REAL, grace)

    def kill(*_: object) -> None:
        send(signal.SIGKILL)

    signal.signal(signal.SIGTERM, terminate)
    signal.signal(signal.SIGALRM, kill)
    signal.signal(PARENT_ENDED, kill)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    code = process.wait()
    end_descendants()
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(run_container(sys.argv[2:], grace=float(sys.argv[1])))
