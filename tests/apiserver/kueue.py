"""Kueue as a job sees it: suspended when created, admitted and evicted when a test says so."""

from __future__ import annotations

from collections.abc import Sequence

from tests.apiserver.errors import ApiError, Object
from tests.apiserver.follower import Follower
from tests.apiserver.objects import timestamp
from tests.apiserver.server import ApiServer

QUEUE_LABEL = "kueue.x-k8s.io/queue-name"


class Kueue(Follower):
    """Makes a Workload of every PyTorchJob that names a queue, and keeps the job suspended."""

    kinds = ("PyTorchJob",)

    def __init__(self, server: ApiServer) -> None:
        super().__init__(server)
        self._remove_webhook = server.admit(suspend_new)

    def on_objects(self, objects: Sequence[Object]) -> None:
        """Queues jobs that are new."""
        for job in objects:
            if QUEUE_LABEL in (job["metadata"].get("labels") or {}):
                self._queue_up(job)

    def on_stop(self) -> None:
        """Takes the webhook away again."""
        self._remove_webhook()

    def explain(self, job: str, message: str, *, namespace: str = "default") -> None:
        """Says why a job is not admitted, such as `insufficient unused quota for cpu`."""
        self._set_conditions(job, namespace, QuotaReserved=("False", "Pending", message))
        self._event(job, namespace, "Pending", message)

    def admit(self, job: str, *, namespace: str = "default") -> None:
        """Reserves quota for a job and lets it run."""
        why = "The workload is admitted"
        self._set_conditions(
            job,
            namespace,
            QuotaReserved=("True", "QuotaReserved", why),
            Admitted=("True", "Admitted", why),
        )
        self._set_suspend(job, namespace, suspend=False)
        self._event(job, namespace, "Started", "Admitted by clusterQueue cluster-queue")

    def evict(self, job: str, message: str, *, namespace: str = "default") -> None:
        """Takes a job's quota back, as preemption does."""
        self._set_conditions(
            job,
            namespace,
            QuotaReserved=("False", "Pending", message),
            Admitted=("False", "NoReservation", message),
            Evicted=("True", "Preempted", message),
        )
        self._set_suspend(job, namespace, suspend=True)
        self._event(job, namespace, "Stopped", message)

    def _queue_up(self, job: Object) -> None:
        metadata = job["metadata"]
        name, namespace, queue = metadata["name"], metadata["namespace"], metadata["labels"]
        owner = {"apiVersion": job["apiVersion"], "kind": job["kind"], "name": name}
        workload = {
            "apiVersion": "kueue.x-k8s.io/v1beta1",
            "kind": "Workload",
            "metadata": {
                "name": workload_name(job),
                "ownerReferences": [{**owner, "uid": metadata["uid"], "controller": True}],
            },
            "spec": {"queueName": queue[QUEUE_LABEL], "active": True},
        }
        try:
            self.store.create(workload, namespace=namespace)
        except ApiError:  # there already, or the namespace is gone
            return
        if self.store.find("LocalQueue", queue[QUEUE_LABEL], namespace) is None:
            message = f"LocalQueue {queue[QUEUE_LABEL]} doesn't exist"
            self._set_conditions(name, namespace, QuotaReserved=("False", "Inadmissible", message))
        else:
            self._event(name, namespace, "CreatedWorkload", f"Created {workload_name(job)}")

    def _set_conditions(self, job: str, namespace: str, **conditions: tuple[str, str, str]) -> None:
        owner = self.store.get("PyTorchJob", job, namespace)
        self._queue_up(owner)  # should its change not have been seen yet
        name = workload_name(owner)
        status = self.store.get("Workload", name, namespace).get("status") or {}
        changed = [
            {
                "type": type,
                "status": value,
                "reason": reason,
                "message": message,
                "lastTransitionTime": timestamp(),
            }
            for type, (value, reason, message) in conditions.items()
        ]
        kept = [c for c in status.get("conditions", ()) if c["type"] not in conditions]
        self.store.set_status(
            "Workload", name, {"conditions": [*kept, *changed]}, namespace=namespace
        )

    def _set_suspend(self, job: str, namespace: str, *, suspend: bool) -> None:
        self.store.update(
            "PyTorchJob", job, lambda obj: _with_suspend(obj, suspend=suspend), namespace=namespace
        )

    def _event(self, job: str, namespace: str, reason: str, message: str) -> None:
        obj = self.store.get("PyTorchJob", job, namespace)
        self.store.event(
            obj, type="Normal", reason=reason, message=message, component="kueue-job-controller"
        )


def workload_name(job: Object) -> str:
    """Returns the name of a job's Workload."""
    return f"pytorchjob-{job['metadata']['name']}-{job['metadata']['uid'][:5]}"


def suspend_new(obj: Object) -> Object:
    """Suspends a PyTorchJob that names a queue when it is created, as Kueue's webhook does."""
    is_new = "uid" not in obj["metadata"]
    queued = QUEUE_LABEL in (obj["metadata"].get("labels") or {})
    if obj["kind"] != "PyTorchJob" or not is_new or not queued:
        return obj
    return _with_suspend(obj, suspend=True)


def _with_suspend(job: Object, *, suspend: bool) -> Object:
    policy = {**job["spec"].get("runPolicy", {}), "suspend": suspend}
    return {**job, "spec": {**job["spec"], "runPolicy": policy}}
