"""The daemon behind one local job: `python -m florence.launch.local_supervisor JOB_DIR LOCK_FD`.

It plays the training operator (`operator.reconcile`) and the kubelet: pods are process trees with
their own log, restarted in place or made anew as their restartPolicy says. It ends when the job is
finished and no pod is left.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from florence.launch.local_container import PARENT_ENDED
from florence.launch.local_pod import MARK, LocalPods, with_port
from florence.launch.local_state import JobDirectory, Record
from florence.launch.manifest import Manifest, read_manifest
from florence.launch.operator import failed_status, is_finished, reconcile
from florence.launch.pods import LABEL
from florence.launch.status import PodStatus
from florence.util.process import end_marked, ends_with_parent

CANCELLED = "Cancelled"
_TICK_SECONDS = 0.1
# The kubelet's reduced back-off; the operator itself has none.
_LONGEST_BACKOFF = 60.0
_FORGIVEN_AFTER = 600.0
_MESSAGE_BYTES = 2048


@dataclass
class _Pod:
    """A pod object and, while its container runs, the process."""

    manifest: Manifest
    status: PodStatus
    process: subprocess.Popen[bytes] | None = None
    log_start: int = 0
    """Size of the log when the container started."""
    started: float = 0.0


class Supervisor:
    """Runs the job of a directory until it is finished or cancelled."""

    def __init__(self, directory: JobDirectory) -> None:
        manifest = read_manifest(directory.manifest.read_text(), source=str(directory.manifest))
        self._directory = directory
        self._job = directory.read().job
        self._status: Manifest = self._job["status"]
        self._local = LocalPods(manifest._replace(job=self._job), directory.path)
        self._for_operator = self._job
        self._pods: dict[str, _Pod] = {}
        self._gone: dict[str, PodStatus] = {}
        self._starts: Counter[str] = Counter()
        self._failures: Counter[str] = Counter()
        self._not_before: defaultdict[str, float] = defaultdict(float)
        self._written: Record | None = None

    def cancel(self) -> None:
        """Lets the next step end every pod and the job."""
        self._directory.cancel_request.touch()

    def run(self) -> None:
        """Returns when the job is finished and nothing of it runs."""
        while not self._step():
            time.sleep(_TICK_SECONDS)

    def _step(self) -> bool:
        for pod in list(self._pods.values()):
            self._advance(pod)
        if self._directory.cancel_request.exists():
            self._cancel()
        else:
            self._reconcile()
        record = Record(
            {**self._job, "status": self._status},
            tuple((self._gone | {name: pod.status for name, pod in self._pods.items()}).values()),
            restarts=self._starts.total() - len(self._starts),
        )
        if record != self._written:
            self._directory.write(record)
            self._written = record
        active = any(pod.status.is_active for pod in self._pods.values())
        return is_finished(self._status) and not active

    def _reconcile(self) -> None:
        if not self._pods:  # the port of an earlier attempt may be taken by now
            self._for_operator = with_port(self._job, _free_port())
        pods = [pod.status for pod in self._pods.values()]
        job = {**self._for_operator, "status": self._status}
        decision = reconcile(job, pods, now=datetime.now(UTC))
        self._status = decision.status
        for name in decision.delete:
            self._delete(name)
        for manifest in decision.create:
            self._create(manifest)

    def _cancel(self) -> None:
        for name in list(self._pods):
            self._delete(name)
        if not self._pods and not is_finished(self._status):
            self._status = failed_status(
                self._status,
                reason=CANCELLED,
                message="cancelled; submit the job again to continue from its last checkpoint",
                now=datetime.now(UTC),
            )

    def _create(self, manifest: Manifest) -> None:
        labels, name = manifest["metadata"]["labels"], manifest["metadata"]["name"]
        kind, index = labels[LABEL + "replica-type"].title(), int(labels[LABEL + "replica-index"])
        self._local.make_volumes(manifest)
        self._pods[name] = _Pod(manifest, PodStatus(name=name, kind=kind, index=index))

    def _delete(self, name: str) -> None:
        pod = self._pods[name]
        if pod.process is None:
            self._remove(pod)
        elif not pod.status.deleting:
            pod.status = replace(pod.status, deleting=True)
            pod.process.terminate()

    def _remove(self, pod: _Pod) -> None:
        del self._pods[pod.status.name]
        self._gone[pod.status.name] = pod.status

    def _advance(self, pod: _Pod) -> None:
        if pod.process is not None:
            if (code := pod.process.poll()) is not None:
                self._container_ended(pod, code if code >= 0 else 128 - code)
        elif pod.status.is_active and time.monotonic() >= self._not_before[pod.status.name]:
            self._start(pod)

    def _start(self, pod: _Pod) -> None:
        name = pod.status.name
        # Should the process that keeps a pod's tree together have been killed, parts live on.
        end_marked(MARK, f"{self._directory.path}/{name}/")
        command, environment, grace = self._local.process(pod.manifest)
        module = [sys.executable, "-m", "florence.launch.local_container", str(grace)]
        with self._directory.log(name).open("ab") as log:
            if self._starts[name]:
                log.write(f"\n--- restart {self._starts[name]} of {name} ---\n".encode())
                log.flush()
            pod.log_start = log.tell()
            pod.process = subprocess.Popen(
                [*module, *command],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=ends_with_parent(PARENT_ENDED),
            )
        in_place = pod.status.exit_code is not None
        pod.status = replace(
            pod.status, phase="Running", restarts=pod.status.restarts + int(in_place)
        )
        pod.started = time.monotonic()
        self._starts[name] += 1

    def _container_ended(self, pod: _Pod, code: int) -> None:
        pod.process = None
        message = self._last_words(pod) if code else ""
        pod.status = replace(pod.status, exit_code=code, message=message)
        policy = pod.manifest["spec"]["restartPolicy"]
        if code:
            self._back_off(pod)
        if not pod.status.deleting and (policy == "Always" or (code and policy == "OnFailure")):
            return  # started again in place when its back-off is over
        pod.status = replace(pod.status, phase="Failed" if code else "Succeeded")
        if pod.status.deleting:
            self._remove(pod)

    def _back_off(self, pod: _Pod) -> None:
        name, now = pod.status.name, time.monotonic()
        if now - pod.started > _FORGIVEN_AFTER:
            self._failures[name] = 0
        self._not_before[name] = now + min(2.0 ** self._failures[name], _LONGEST_BACKOFF)
        self._failures[name] += 1

    def _last_words(self, pod: _Pod) -> str:
        with self._directory.log(pod.status.name).open("rb") as log:
            end = log.seek(0, os.SEEK_END)
            log.seek(max(pod.log_start, end - _MESSAGE_BYTES))
            return log.read().decode(errors="replace")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def main(path: str, lock: str) -> None:
    """Becomes a daemon; the caller's wait for this process ends as soon as the job is under way."""
    os.set_inheritable(int(lock), False)
    supervisor = Supervisor(JobDirectory(Path(path)))
    if os.fork():
        os._exit(0)
    signal.signal(signal.SIGTERM, lambda *_: supervisor.cancel())
    supervisor.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
