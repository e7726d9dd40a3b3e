"""One per node: starts torchrun's agent for the workers of run.yaml and maps its exit code.

python -m florence.launcher RUN_YAML

The training operator sets torchrun's PET_ variables; without them the node is taken to be the only
one. Under `restartPolicy: ExitCode` 1-127 is permanent and 128 and above is tried again, while
torchrun itself ends with 1 whatever happened. The last line printed on failure is one sentence,
`error: ...`, which Kubernetes keeps as the pod's termination message.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from florence.config.resolve import load_run
from florence.util.errors import EXIT_BUG, EXIT_INFRASTRUCTURE, EXIT_PREEMPTED, EXIT_USER, UserError
from florence.util.process import ends_with_parent

WORKER = "florence.worker"
_SIMULTANEOUS_SECONDS = 2
_SPOKEN_FOR = (EXIT_USER, EXIT_INFRASTRUCTURE, EXIT_PREEMPTED)


class Outcome(NamedTuple):
    """How this node ended; an empty message if the worker has said what there is to say."""

    code: int
    message: str


class RankFailure(NamedTuple):
    """A local rank that failed, as `florence.distributed.agent` reports it."""

    rank: int
    exit_code: int
    """-n: killed by signal n."""
    time: int
    """Seconds since the epoch, of the exception or else of its discovery."""
    message: str
    """`TypeName: text` of the exception, or empty."""


def main(arguments: Sequence[str]) -> int:
    """Runs the workers of this node and returns the exit code the operator is to see."""
    try:
        if len(arguments) != 1:
            raise UserError(f"{len(arguments)} arguments; allowed: one, the path of run.yaml")
        outcome = launch(arguments[0])
    except UserError as error:
        outcome = Outcome(EXIT_USER, str(error))
    if outcome.message:
        print(f"error: {outcome.message}", file=sys.stderr, flush=True)
    return outcome.code


def launch(run_yaml: str) -> Outcome:
    """Starts the agent, hands SIGTERM and SIGINT on to it and waits for its end.

    Raises UserError for a run.yaml that is not a run, before any worker starts.
    """
    per_node = load_run(run_yaml).cluster.processes_per_node
    by_hand = ["--standalone", "--nproc-per-node", str(per_node)]
    nodes = [] if "PET_NNODES" in os.environ else by_hand
    with tempfile.TemporaryDirectory(prefix="florence-") as folder:
        report = Path(folder) / "failures.json"
        command = [sys.executable, "-m", "florence.distributed.agent", str(report)]
        agent = subprocess.Popen(
            [*command, *nodes, "--module", WORKER, run_yaml],
            process_group=0,  # Ctrl-C reaches it through the launcher alone, once
            preexec_fn=ends_with_parent(signal.SIGTERM),
        )
        received: list[int] = []

        def forward(number: int, _: object) -> None:
            received.append(number)
            agent.send_signal(number)

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, forward)
        code = agent.wait()
        failures = json.loads(report.read_text(encoding="utf-8")) if report.exists() else []
    if code and received:
        name = signal.Signals(received[0]).name
        return Outcome(128 + received[0], f"stopped by {name}")
    return judge(code, [RankFailure(**failure) for failure in failures])


def judge(agent_code: int, failures: Sequence[RankFailure]) -> Outcome:
    """Returns the cause of the agent's end in the codes of `florence.util.errors`.

    When a rank fails the others fail of its absence or are ended by the agent. So bad input
    counts first; of the failures at the beginning then a kill, which nobody fakes; then the first.
    """
    if not failures:
        return _judge_agent(agent_code)
    earliest = min(failure.time for failure in failures)
    early = [f for f in failures if f.time <= earliest + _SIMULTANEOUS_SECONDS]
    bad_input = [f for f in failures if f.exit_code == EXIT_USER]
    killed = [f for f in early if f.exit_code < 0 and f.exit_code != -signal.SIGTERM]
    return _judge_rank((bad_input or killed or early)[0])


def _judge_agent(code: int) -> Outcome:
    if code == 0:
        return Outcome(0, "")
    if code < 0:
        name = signal.Signals(-code).name
        return Outcome(128 - code, f"torchrun's agent was killed by {name}")
    if code == EXIT_INFRASTRUCTURE:
        return Outcome(code, "the nodes of the job did not find each other; see the log above")
    return Outcome(EXIT_BUG, "torchrun's agent failed; see the log above")


def _judge_rank(failure: RankFailure) -> Outcome:
    rank, code, _, message = failure
    if code < 0:
        name = signal.Signals(-code).name
        hint = " (out of memory?)" if code == -signal.SIGKILL else ""
        return Outcome(128 - code, f"rank {rank} was killed by {name}{hint}")
    sentence = " ".join(message.split())
    if code in _SPOKEN_FOR:
        return Outcome(code, re.sub(r"^\w+: ", "", sentence))
    return Outcome(code, f"rank {rank}: {sentence or f'exit code {code}, see the log above'}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
