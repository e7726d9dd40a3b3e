"""The training operator of the test cluster: the store's objects around `launch/operator.py`.

Like the operator itself, it looks at a job only when the job or one of its pods changes; a job
that hangs passes its deadline unnoticed unless `tick` is given.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime

from florence.launch.manifest import apply_defaults, validate
from florence.launch.operator import Decision, is_finished, reconcile
from florence.launch.pods import LABEL, service_manifest
from florence.launch.status import PodStatus, parse_time
from florence.util.errors import UserError
from tests.apiserver.errors import ApiError, Object
from tests.apiserver.follower import Follower
from tests.apiserver.server import ApiServer
from tests.apiserver.store import DeleteOptions

_COMPONENT = "pytorchjob-controller"
_MANAGER = "kubeflow.org/training-operator"


def webhook(obj: Object) -> Object:
    """Refuses a PyTorchJob the operator's webhook refuses, with the 403 the API server makes."""
    if obj["kind"] == "PyTorchJob":
        try:
            validate(obj)
        except UserError as error:
            name = "validator.pytorchjob.training-operator.kubeflow.org"
            message = f'admission webhook "{name}" denied the request: {error}'
            raise ApiError(403, message) from error
    return obj


class Controller(Follower):
    """Makes pods and services of PyTorchJobs and keeps the jobs' status."""

    kinds = ("PyTorchJob", "Pod")

    def __init__(self, server: ApiServer, *, tick: float | None = None) -> None:
        """`tick`: seconds after which every job is looked at, even if nothing changed."""
        super().__init__(server)
        self._tick = tick
        self._next_tick = time.monotonic()
        self._again: set[tuple[str, str]] = set()
        self._remove_webhook = server.admit(webhook)

    def on_objects(self, objects: Sequence[Object]) -> None:
        """Reconciles the jobs that changed and those whose pods did."""
        for namespace, name in dict.fromkeys(filter(None, map(_job_key, objects))):
            self._reconcile(namespace, name)

    def on_tick(self) -> None:
        """Deletes jobs whose time to live has passed, retries; with `tick`, looks at every job."""
        again, self._again = self._again, set()
        for namespace, name in again:
            self._reconcile(namespace, name)
        for job in self.store.all("PyTorchJob"):
            if _has_outlived(job):
                self._try_delete("PyTorchJob", job["metadata"]["namespace"], _name(job))
        if self._tick is not None and time.monotonic() >= self._next_tick:
            self._next_tick = time.monotonic() + self._tick
            self.on_objects(self.store.all("PyTorchJob"))

    def on_stop(self) -> None:
        """Takes the webhook away again."""
        self._remove_webhook()

    def _reconcile(self, namespace: str, name: str) -> None:
        job = self.store.find("PyTorchJob", name, namespace)
        if job is None:
            return
        job = apply_defaults(job)
        policy = job["spec"]["runPolicy"]
        if policy.get("managedBy", _MANAGER) != _MANAGER:
            return
        pods = [observe(pod) for pod in self.store.owned("Pod", job["metadata"]["uid"])]
        decision = reconcile(job, pods, now=datetime.now(UTC))
        # The status first: whoever sees the pods of a restart also sees the restart.
        self._write_status(job, decision)
        stopped = is_finished(decision.status) or policy.get("suspend")
        for pod_name in decision.delete:
            if self._try_delete("Pod", namespace, pod_name):
                self._event(job, "SuccessfulDeletePod", f"Deleted pod: {pod_name}")
            if stopped:
                self._try_delete("Service", namespace, pod_name)
        for pod in decision.create:
            self._create(job, pod)

    def _write_status(self, job: Object, decision: Decision) -> None:
        before = job.get("status") or {}
        if decision.status == before:
            return
        namespace, name = job["metadata"]["namespace"], _name(job)
        try:
            self.store.update(
                "PyTorchJob",
                name,
                lambda current: {**current, "status": decision.status},
                namespace=namespace,
                status_only=True,
            )
        except ApiError:  # deleted meanwhile
            return
        known = {(c["type"], c["reason"]) for c in before.get("conditions", ())}
        for condition in decision.status["conditions"]:
            if (condition["type"], condition["reason"]) not in known:
                self._event(job, condition["reason"], condition["message"])

    def _create(self, job: Object, pod: Object) -> None:
        namespace, labels = job["metadata"]["namespace"], pod["metadata"]["labels"]
        kind, index = labels[LABEL + "replica-type"].title(), int(labels[LABEL + "replica-index"])
        for obj in (pod, service_manifest(job, kind, index)):
            try:
                self.store.create(self.server.api.admit(obj), namespace=namespace)
            except ApiError as error:
                if error.reason == "AlreadyExists":
                    continue
                self._again.add((namespace, _name(job)))
                self._event(job, f"FailedCreate{obj['kind']}", str(error), type="Warning")
            else:
                reason = f"SuccessfulCreate{obj['kind']}"
                self._event(job, reason, f"Created {obj['kind'].lower()}: {_name(obj)}")

    def _try_delete(self, kind: str, namespace: str, name: str) -> bool:
        try:
            self.store.delete(kind, name, namespace=namespace, options=DeleteOptions())
        except ApiError:
            return False
        return True

    def _event(self, job: Object, reason: str, message: str, *, type: str = "Normal") -> None:
        try:
            self.store.event(job, type=type, reason=reason, message=message, component=_COMPONENT)
        except ApiError:  # the namespace is gone
            return


def observe(pod: Object) -> PodStatus:
    """Returns what the operator looks at in a pod object."""
    labels, status = pod["metadata"]["labels"], pod["status"]
    containers = status.get("containerStatuses") or []
    own: Object = next((c for c in containers if c["name"] == "pytorch"), {"state": {}})
    terminated = own["state"].get("terminated") or {}
    return PodStatus(
        name=_name(pod),
        kind=labels[LABEL + "replica-type"].title(),
        index=int(labels[LABEL + "replica-index"]),
        phase=status["phase"],
        exit_code=terminated.get("exitCode"),
        restarts=sum(container["restartCount"] for container in containers),
        deleting="deletionTimestamp" in pod["metadata"],
    )


def _name(obj: Object) -> str:
    return str(obj["metadata"]["name"])


def _job_key(obj: Object) -> tuple[str, str] | None:
    """The job an object is or belongs to."""
    metadata = obj["metadata"]
    if obj["kind"] == "PyTorchJob":
        return metadata["namespace"], metadata["name"]
    owners = (o for o in metadata.get("ownerReferences") or () if o["kind"] == "PyTorchJob")
    owner = next(owners, None)
    return (metadata["namespace"], owner["name"]) if owner else None


def _has_outlived(job: Object) -> bool:
    """Without a completionTime, as after a permanent exit code, a job is never deleted."""
    ttl = job["spec"].get("runPolicy", {}).get("ttlSecondsAfterFinished")
    finished = parse_time((job.get("status") or {}).get("completionTime"))
    if ttl is None or finished is None:
        return False
    return bool((datetime.now(UTC) - finished).total_seconds() >= ttl)
