"""`python -m tests.apiserver KUBECONFIG`: a one-machine cluster until it is interrupted.

Writes KUBECONFIG for kubectl, runs the pods of PyTorchJobs as processes of this machine.
"""

from __future__ import annotations

import argparse
import signal
import tempfile
from pathlib import Path
from threading import Event

from tests.apiserver.controller import Controller
from tests.apiserver.kubelet import Kubelet
from tests.apiserver.kueue import Kueue
from tests.apiserver.processes import Processes
from tests.apiserver.server import ApiServer


def main() -> None:
    """Serves until SIGINT or SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m tests.apiserver", description=__doc__)
    parser.add_argument("kubeconfig", type=Path, help="where to write the kubeconfig")
    parser.add_argument("--port", type=int, default=0, help="port to listen on (default: any)")
    arguments = parser.parse_args()
    stopped = Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    with tempfile.TemporaryDirectory() as folder, ApiServer(port=arguments.port) as server:
        processes = Processes(server, Path(folder))
        with Kueue(server), Controller(server, tick=1.0), Kubelet(server, processes):
            server.write_kubeconfig(arguments.kubeconfig)
            print(f"{server.url}, KUBECONFIG={arguments.kubeconfig}", flush=True)
            stopped.wait()


if __name__ == "__main__":
    main()
