"""Process trees that end as a whole, as a container's do (Linux)."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
from collections.abc import Callable

import psutil

from florence.util.errors import InfrastructureError

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_libc = ctypes.CDLL(None, use_errno=True)


def ends_with_parent(signal_number: int = signal.SIGKILL) -> Callable[[], None]:
    """Returns a `preexec_fn`: the child gets the signal when the process calling this ends.

    More exactly, when the thread that starts the child ends.
    """
    parent = os.getpid()

    def in_child() -> None:
        # Ignored and blocked signals are inherited, under nohup for example.
        if signal_number != signal.SIGKILL:
            signal.signal(signal_number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        _libc.prctl(_PR_SET_PDEATHSIG, int(signal_number))
        if os.getppid() != parent:  # it ended before the line above
            os.kill(os.getpid(), signal.SIGKILL)

    return in_child


def adopt_orphans() -> None:
    """Makes this process the parent of descendants whose own parent ends."""
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1)


def end_descendants() -> None:
    """Kills and reaps every descendant; misses none only in a process that adopts orphans."""
    me = psutil.Process()
    while True:
        for child in me.children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def end_marked(name: str, prefix: str) -> None:
    """Kills every process started with the environment variable `name` set to `prefix...`.

    The variable proves what a process id cannot: that the process is the one that was meant.
    Raises InfrastructureError when one of them outlives its killing.
    """
    marked: list[psutil.Process] = []
    for _ in range(10):  # a process may fork while it is being found
        marked = [process for process in psutil.process_iter() if _marked(process, name, prefix)]
        if not marked:
            return
        for process in marked:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(marked, timeout=1)
    pids = ", ".join(str(process.pid) for process in marked)
    raise InfrastructureError(f"cannot end process {pids}, left over from an earlier attempt")


def _marked(process: psutil.Process, name: str, prefix: str) -> bool:
    try:
        found = process.environ().get(name, "").startswith(prefix)
    except (psutil.Error, OSError):  # it ended, or belongs to somebody else
        return False
    return found and process.pid != os.getpid()
