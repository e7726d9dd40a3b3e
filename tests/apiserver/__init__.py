"""A small Kubernetes API server for tests: real HTTP, real semantics, faults on demand.

    with ApiServer() as server, Controller(server), Kubelet(server, runs(b"hello\n")):
        server.write_kubeconfig(path)          # for kubectl and the Python clients
        server.faults.add(Fault(verb="list", status=429, retry_after=1, rate=0.2))

`controller` has the training operator, `kueue` the queue, `kubelet` and `processes` what makes
pods live, by script or for real. `python -m tests.apiserver` starts all of it as a process.
"""

from tests.apiserver.access import Access, Rule
from tests.apiserver.faults import Fault
from tests.apiserver.server import ApiServer

__all__ = ["Access", "ApiServer", "Fault", "Rule"]
