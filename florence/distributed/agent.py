"""torchrun that also tells why it failed.

python -m florence.distributed.agent REPORT TORCHRUN_ARGUMENTS...

torchrun ends with exit code 1 whatever became of its workers. This is torchrun itself, its command
line included; it writes to the file REPORT, as JSON, what it knows of every local rank that failed.
A rank's message is the exception it gave to `torch.distributed.elastic`'s `ErrorHandler`.
"""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch.distributed.run
from torch.distributed import DistError
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.elastic.rendezvous.api import RendezvousError

from florence.util.errors import EXIT_BUG, EXIT_INFRASTRUCTURE


def main(arguments: Sequence[str]) -> int:
    """Runs torchrun; returns 0, 1 if ranks failed, 129 if the nodes did not find each other."""
    report, *torchrun = arguments
    try:
        torch.distributed.run.main(torchrun)
    except ChildFailedError as error:
        ranks = [describe(rank, failure) for rank, failure in error.failures.items()]
        Path(report).write_text(json.dumps(ranks), encoding="utf-8")
        return EXIT_BUG
    except SignalException as error:
        return 128 + error.sigval
    except (RendezvousError, DistError):
        traceback.print_exc()
        return EXIT_INFRASTRUCTURE
    return 0


def describe(rank: int, failure: ProcessFailure) -> dict[str, Any]:
    """Returns the rank, exit code (-n: killed by signal n), time (s) and message of a failure."""
    recorded = failure.error_file_data["message"]
    message = recorded["message"] if isinstance(recorded, dict) else ""
    return {
        "rank": rank,
        "exit_code": failure.exitcode,
        "time": failure.timestamp,
        "message": message,
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
