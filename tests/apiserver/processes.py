"""A kubelet script that really runs pods: as processes of this machine, as the local backend does.

Command, environment, volumes and GPUs come from `florence.launch.local_pod`, the process tree from
`florence.launch.local_container`; only the objects and the log are the test cluster's.
"""

from __future__ import annotations

import copy
import socket
import subprocess
import sys
from pathlib import Path
from threading import Lock, Thread
from typing import IO

from florence.launch.local_container import PARENT_ENDED
from florence.launch.local_pod import LocalPods, PodProcess
from florence.launch.manifest import JobManifest, apply_defaults
from florence.util.errors import UserError
from florence.util.process import ends_with_parent
from tests.apiserver.errors import Object
from tests.apiserver.kubelet import Life
from tests.apiserver.server import ApiServer

_POLL_SECONDS = 0.1
_FIRST_BACKOFF = 1.0


class Processes:
    """The script: `Kubelet(server, Processes(server, folder))`; volumes lie in `folder`."""

    def __init__(self, server: ApiServer, folder: Path) -> None:
        self._store = server.store
        self._folder = folder
        self._ports: dict[str, int] = {}
        self._lock = Lock()

    def __call__(self, life: Life) -> None:
        """Runs the pod's command until it need not be started again or the pod is deleted."""
        job = self._job(life.pod)
        try:
            local = self._local_pods(job)
        except UserError as error:  # more GPUs than there are, or a volume that is not there
            return life.unschedulable(str(error))
        life.schedule()
        pod = _with_port(life.pod, self._port(job))
        local.make_volumes(pod)
        process, backoff = local.process(pod), _FIRST_BACKOFF
        while _run(life, process):
            life.sleep(backoff)
            backoff *= 2
        return None

    def _job(self, pod: Object) -> Object:
        metadata = pod["metadata"]
        name = metadata["ownerReferences"][0]["name"]
        return apply_defaults(self._store.get("PyTorchJob", name, metadata["namespace"]))

    def _local_pods(self, job: Object) -> LocalPods:
        metadata = job["metadata"]
        config_maps = tuple(self._store.all("ConfigMap", metadata["namespace"]))
        local = LocalPods(JobManifest(job, config_maps), self._folder / metadata["name"])
        local.check()
        return local

    def _port(self, job: Object) -> int:
        """A port per job: on this machine the pods of all jobs share one address."""
        with self._lock:
            return self._ports.setdefault(job["metadata"]["uid"], _free_port())


def _run(life: Life, process: PodProcess) -> bool:
    """Runs the container once; returns whether it is to be started again in place."""
    life.start()
    module = [sys.executable, "-m", "florence.launch.local_container", str(process.grace)]
    child = subprocess.Popen(
        [*module, *process.command],
        env=process.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        preexec_fn=ends_with_parent(PARENT_ENDED),
    )
    assert child.stdout is not None
    reader = Thread(target=_copy, args=(child.stdout, life), daemon=True)
    reader.start()
    while child.poll() is None:
        if life.deleted.wait(_POLL_SECONDS):
            child.terminate()
            child.wait()
    reader.join()
    code = child.returncode
    return life.end(code if code >= 0 else 128 - code)


def _copy(output: IO[bytes], life: Life) -> None:
    """Copies what a process prints to the pod's log, also while the pod is being deleted."""
    with output:
        for line in output:
            life.log([line])


def _with_port(pod: Object, port: int) -> Object:
    """Returns the pod with its rendezvous on another port."""
    pod = copy.deepcopy(pod)
    for container in pod["spec"]["containers"]:
        for variable in container.get("env", ()):
            if variable["name"] in ("MASTER_PORT", "PET_MASTER_PORT"):
                variable["value"] = str(port)
            elif variable["name"] == "PET_RDZV_ENDPOINT":
                variable["value"] = f"{variable['value'].rpartition(':')[0]}:{port}"
    return pod


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
