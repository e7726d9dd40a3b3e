"""Makes pods live: scheduler, image pull and kubelet in one, by a script per pod.

A script is a function of the pod's `Life`: it calls what happens to the pod, in order, in a thread
of its own. It ends early, by `PodGone`, when the pod is deleted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from threading import Event, Thread

from tests.apiserver.errors import ApiError, Object
from tests.apiserver.follower import Follower
from tests.apiserver.logs import ContainerLog
from tests.apiserver.objects import timestamp
from tests.apiserver.server import ApiServer
from tests.apiserver.store import DeleteOptions

_MESSAGE_BYTES = 2048


class PodGone(Exception):  # noqa: N818 - a script's normal end, no error
    """The pod is being deleted: its script has nothing more to do."""


class Life:
    """One pod, and what can happen to it; all but `log` raise PodGone once it is deleted."""

    def __init__(self, server: ApiServer, pod: Object, *, attempt: int) -> None:
        self.pod = pod
        """The pod as it was created."""
        self.name: str = pod["metadata"]["name"]
        self.attempt = attempt
        """How many pods of this name there were before."""
        self.deleted = Event()
        self.restarts = 0
        self._server = server
        self._namespace: str = pod["metadata"]["namespace"]
        self._log: ContainerLog | None = None
        self._started_at = ""
        self._last_state: Object = {}

    def schedule(self, node: str = "node-0") -> None:
        """Binds the pod to a node."""
        self._update(lambda pod: {**pod, "spec": {**pod["spec"], "nodeName": node}})
        condition = {"type": "PodScheduled", "status": "True"}
        self._set_status(hostIP="10.0.0.1", startTime=timestamp(), conditions=[condition])
        self.event("Scheduled", f"Successfully assigned {self._namespace}/{self.name} to {node}")

    def unschedulable(self, message: str) -> None:
        """Leaves the pod Pending, with the reason where `kubectl describe` shows it."""
        condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}
        self._set_status(conditions=[{**condition, "message": message}])
        self.event("FailedScheduling", message, warning=True, component="default-scheduler")

    def waiting(self, reason: str, message: str) -> None:
        """Leaves the container waiting, as by ImagePullBackOff or CreateContainerConfigError."""
        self._set_containers({"waiting": {"reason": reason, "message": message}})
        self.event("Failed", f"Error: {reason}: {message}", warning=True)

    def start(self) -> None:
        """Starts the pod's first container, or starts it again."""
        self._check()
        self._log = self._server.logs.open(self.pod, self._container["name"])
        self._started_at = timestamp()
        self._set_containers({"running": {"startedAt": self._started_at}}, phase="Running")
        self.event("Started", f"Started container {self._container['name']}")

    def log(self, lines: Iterable[bytes]) -> None:
        """Prints lines; only the very last may lack its newline."""
        assert self._log is not None, "start() comes first"
        self._log.write(lines)

    def sleep(self, seconds: float) -> None:
        """Lets time pass."""
        self.deleted.wait(seconds)
        self._check()

    def end(self, code: int, *, reason: str = "") -> bool:
        """Ends the container; returns whether it is to be started again in place."""
        assert self._log is not None, "start() comes first"
        policy = self.pod["spec"].get("restartPolicy", "Always")
        again = policy == "Always" or (policy == "OnFailure" and code != 0)
        terminated = {
            "exitCode": code,
            "reason": reason or ("Completed" if code == 0 else "Error"),
            "startedAt": self._started_at,
            "finishedAt": timestamp(),
        }
        if code and self._container.get("terminationMessagePolicy") == "FallbackToLogsOnError":
            terminated["message"] = self._log.last_words(_MESSAGE_BYTES)
        # The end of the log comes last: who follows it can then read the state that ended it.
        if not again:
            phase = "Failed" if code else "Succeeded"
            self._set_containers({"terminated": terminated}, phase=phase)
        else:
            self._last_state = {"terminated": terminated}
            self.restarts += 1
            self._set_containers({"waiting": {"reason": "CrashLoopBackOff"}})
            self.event("BackOff", "Back-off restarting failed container", warning=True)
        self._log.end()
        return again

    def evict(self, message: str) -> None:
        """Ends the pod as node pressure does: Failed, and no container says with which code."""
        self._set_status(phase="Failed", reason="Evicted", message=message, containerStatuses=[])
        self.event("Evicted", message, warning=True)
        if self._log is not None:
            self._log.end()

    def event(
        self, reason: str, message: str, *, warning: bool = False, component: str = "kubelet"
    ) -> None:
        """Records an event about the pod."""
        pod = self._server.store.find("Pod", self.name, self._namespace)
        if pod is None:
            raise PodGone
        type = "Warning" if warning else "Normal"
        self._server.store.event(
            pod, type=type, reason=reason, message=message, component=component
        )

    def finish_deletion(self) -> None:
        """Ends what still runs of a deleted pod and removes its object."""
        if self._log is not None:
            self._log.end()
        uid = self.pod["metadata"]["uid"]
        try:
            self._server.store.delete(
                "Pod", self.name, namespace=self._namespace, options=DeleteOptions(0, uid=uid)
            )
        except ApiError:  # it was forced, or its namespace is gone
            return

    @property
    def _container(self) -> Object:
        container: Object = self.pod["spec"]["containers"][0]
        return container

    def _check(self) -> None:
        if self.deleted.is_set():
            raise PodGone

    def _set_containers(self, state: Object, **fields: object) -> None:
        status = {
            "name": self._container["name"],
            "image": self._container.get("image", ""),
            "imageID": "",
            "ready": "running" in state,
            "started": "running" in state,
            "restartCount": self.restarts,
            "state": state,
            "lastState": self._last_state,
        }
        condition = {"type": "Ready", "status": str("running" in state)}
        scheduled = {"type": "PodScheduled", "status": "True"}
        self._set_status(containerStatuses=[status], conditions=[scheduled, condition], **fields)

    def _set_status(self, **fields: object) -> None:
        self._check()
        self._update(lambda pod: {**pod, "status": pod["status"] | fields}, status_only=True)

    def _update(self, change: Callable[[Object], Object], *, status_only: bool = False) -> None:
        def change_own(pod: Object) -> Object:
            if pod["metadata"]["uid"] != self.pod["metadata"]["uid"]:
                raise PodGone
            return change(pod)

        try:
            self._server.store.update(
                "Pod", self.name, change_own, namespace=self._namespace, status_only=status_only
            )
        except ApiError as error:
            raise PodGone from error


Script = Callable[[Life], None]


def runs(
    *lines: bytes,
    seconds: float = 0.0,
    exit_codes: Sequence[int] = (0,),
    restart_after: float = 0.0,
) -> Script:
    """Returns a script that prints lines, waits and exits; once per code as long as it restarts."""

    def script(life: Life) -> None:
        life.schedule()
        for code in exit_codes:
            life.start()
            life.log(lines)
            life.sleep(seconds)
            if not life.end(code):
                return
            life.sleep(restart_after)

    return script


def stays_pending(
    message: str = "0/1 nodes are available: 1 Insufficient nvidia.com/gpu.",
) -> Script:
    """Returns a script of a pod no node has room for."""
    return lambda life: life.unschedulable(message)


def cannot_pull(message: str = "Back-off pulling image") -> Script:
    """Returns a script of a pod whose image is not there."""

    def script(life: Life) -> None:
        life.schedule()
        life.waiting("ImagePullBackOff", message)

    return script


class Kubelet(Follower):
    """Runs a script for every pod; pods that are deleted end with their grace period."""

    kinds = ("Pod",)

    def __init__(self, server: ApiServer, script: Script) -> None:
        super().__init__(server)
        self._script = script
        self._lives: dict[str, Life] = {}
        self._seen: Counter[tuple[str, str]] = Counter()
        self._threads: list[Thread] = []

    def on_objects(self, objects: Sequence[Object]) -> None:
        """Begins the lives of pods that are on no node yet and ends those of deleted ones."""
        for pod in objects:
            metadata = pod["metadata"]
            life = self._lives.get(metadata["uid"])
            if life is None and pod["spec"].get("nodeName"):
                continue
            life = life or self._begin(pod)
            if "deletionTimestamp" in metadata or not self._exists(metadata):
                life.deleted.set()

    def _exists(self, metadata: Object) -> bool:
        found = self.store.find("Pod", metadata["name"], metadata["namespace"])
        return found is not None and found["metadata"]["uid"] == metadata["uid"]

    def on_stop(self) -> None:
        """Ends every life and waits for what it runs; the pod objects stay as they are."""
        for life in self._lives.values():
            life.deleted.set()
        for thread in self._threads:
            thread.join()

    def _begin(self, pod: Object) -> Life:
        metadata = pod["metadata"]
        key = metadata["namespace"], metadata["name"]
        life = Life(self.server, pod, attempt=self._seen[key])
        self._seen[key] += 1
        self._lives[metadata["uid"]] = life
        thread = Thread(target=self._live, args=(life,), daemon=True)
        self._threads.append(thread)
        thread.start()
        return life

    def _live(self, life: Life) -> None:
        with suppress(PodGone):
            self._script(life)
        life.deleted.wait()
        if not self._stopped.is_set():
            life.finish_deletion()
