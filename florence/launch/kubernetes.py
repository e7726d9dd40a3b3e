"""The Kubernetes backend: creates the rendered manifest and tells how the job fares.

A job is its PyTorchJob object; nothing else is kept. Its ConfigMaps belong to it, so that they go
with it. `cancel` deletes it: the operator has no other way to end a job that frees its name, its
pods and its quota for good. What stays is what the job wrote: its checkpoints, from which the next
submit continues, and its MLflow run.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
import time
from collections.abc import Collection, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from itertools import chain
from pathlib import Path

from florence.launch.backend import FINISHED, Event, LogLine, Submission, no_such_job
from florence.launch.kubernetes_client import PATIENCE, Cluster, RefusedError, suppress_code
from florence.launch.kubernetes_explain import (
    explain,
    find_workload,
    job_events,
    job_pods,
    node_rank,
)
from florence.launch.kubernetes_logs import OUTAGE, Seen, follow_logs
from florence.launch.kubernetes_objects import (
    SLACK,
    age,
    comparable,
    counted_pods,
    grace,
    marked,
    may_print,
    may_stay,
    status_of,
    submission,
)
from florence.launch.kubernetes_podlog import read_log
from florence.launch.kubernetes_resources import CONFIG_MAPS, JOBS, WORKLOADS
from florence.launch.manifest import JobManifest, Manifest, replicas, to_yaml, validate
from florence.launch.status import (
    LABEL_RUN,
    QUEUE_LABEL,
    JobState,
    JobStatus,
    job_status,
)
from florence.util.errors import InfrastructureError, UserError

OURS = "app.kubernetes.io/name=florence"


class KubernetesBackend:
    """Runs jobs in one namespace of a cluster; implements `backend.Backend`.

    A name may be a job's or a run's. Every method raises UserError for what the cluster refuses
    and InfrastructureError when it does not answer.
    """

    def __init__(
        self, namespace: str, *, kubeconfig: Path | None = None, poll_seconds: float = 1.0
    ) -> None:
        """`poll_seconds` pass between two looks; a failed request is repeated after a fifth."""
        self._cluster = Cluster(namespace, kubeconfig=kubeconfig, first_backoff=poll_seconds / 5)
        self._poll_seconds = poll_seconds

    def submit(self, manifest: JobManifest, *, rerun: bool = False) -> Submission:
        """Creates the job; UserError for a manifest the operator or the server refuses.

        `rerun` replaces a job, but what it wrote to shared storage stays.
        """
        validate(manifest.job)
        self._check_namespace(manifest)
        job = marked(manifest.job)
        replaced = False
        while True:
            live = self._cluster.find(JOBS, job["metadata"]["name"]) or self._create(manifest, job)
            if live is None:
                continue  # somebody was faster: look again
            status = self._status(live)
            if submission(live) == submission(job):
                self._adopt(manifest, live)
                return Submission(status, "resumed" if replaced and not rerun else "started")
            if replaced or may_stay(live, status.state, rerun=rerun):
                self._adopt(manifest, live)
                return Submission(status, "done" if status.state is JobState.SUCCEEDED else "live")
            self._put_config_maps(manifest)  # without an owner, or they would go with it
            self._delete(live)
            replaced = True

    def diff(self, manifest: JobManifest) -> str:
        """Returns the unified diff from the cluster's objects to the manifest's; empty if equal."""
        self._check_namespace(manifest)
        job = self._cluster.find(JOBS, manifest.job["metadata"]["name"])
        if job is None:
            return ""
        found = [
            self._cluster.find(CONFIG_MAPS, wanted["metadata"]["name"])
            for wanted in manifest.config_maps
        ]
        live = [comparable(obj) for obj in (*found, job) if obj is not None]
        wanted = [comparable(obj) for obj in manifest.documents]
        before, after = (to_yaml(documents).splitlines() for documents in (live, wanted))
        lines = difflib.unified_diff(before, after, "cluster", "manifest", lineterm="")
        return "\n".join(lines)

    def list(self, *, selector: str | None = None) -> Sequence[JobStatus]:
        """Returns the jobs a label selector matches, by default Florence's; without their pods.

        Their states come from the operator's counts, so that 1,000 jobs take a few requests.
        """
        jobs = self._cluster.list(JOBS, labels=OURS if selector is None else selector)
        statuses = [
            dataclasses.replace(job_status(job, counted_pods(job), restarts=0), pods=())
            for job in jobs
        ]
        return tuple(sorted(statuses, key=age, reverse=True))

    def status(self, name: str) -> JobStatus:
        """Returns one job; its message says what it waits for."""
        job = self._job(name)
        pods = job_pods(self._cluster, job)
        status = status_of(job, pods)
        return dataclasses.replace(status, message=explain(self._cluster, job, pods, status))

    def events(self, name: str) -> Sequence[Event]:
        """Returns what happened to a job, its pods and its place in the queue."""
        return job_events(self._cluster, self._job(name))

    def logs(
        self,
        name: str,
        *,
        follow: bool = False,
        tail: int | None = None,
        previous: bool = False,
        rank: int | None = None,
    ) -> Iterator[LogLine]:
        """Yields the lines of all pods by node rank; with `follow` until the job is finished."""
        if follow and previous:
            raise UserError("logs: follow and previous exclude each other: previous has ended")
        job = self._job(name)
        nodes = sum(replica.get("replicas", 1) for _, replica in replicas(job))
        if rank is not None and not 0 <= rank < nodes:
            raise UserError(f"rank = {rank}; job {job['metadata']['name']} has 0 to {nodes - 1}")
        if follow:
            look = partial(self._look, job, rank)
            return follow_logs(self._cluster, look, tail=tail, poll_seconds=self._poll_seconds)
        return chain.from_iterable(
            read_log(self._cluster, pod["metadata"]["name"], tail=tail, previous=previous)
            for pod in job_pods(self._cluster, job)
            if rank in (None, node_rank(job, pod))
        )

    def wait(
        self,
        name: str,
        *,
        states: Collection[JobState] = FINISHED,
        timeout: float | None = None,
    ) -> JobStatus:
        """Waits for one of `states`, or the job's end; TimeoutError after `timeout` seconds."""
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        state = "not known"
        while True:
            try:
                job = self._job(name, patience=_left(deadline))
                status = self._status(job, patience=_left(deadline))
                name, state = status.name, status.state
                if state in states or status.state.is_finished:
                    return status
            except InfrastructureError:
                if _left(deadline) == OUTAGE:
                    raise
            if not _left(deadline):
                raise TimeoutError(f"job {name} is still {state} after {timeout} s")
            time.sleep(min(_left(deadline), self._poll_seconds))

    def suspend(self, name: str) -> JobStatus:
        """Ends the pods and keeps the job; in a queue, its place is given up."""
        return self._set_suspended(name, suspended=True)

    def resume(self, name: str) -> JobStatus:
        """Lets the job run again; in a queue, once it is admitted."""
        return self._set_suspended(name, suspended=False)

    def cancel(self, name: str) -> JobStatus:
        """Deletes a job that has not finished and returns how it was, as Failed (Cancelled).

        A finished one is left as it is.
        """
        job = self._job(name)
        status = self._status(job)
        if status.state.is_finished:
            return status
        self._delete(job)
        return dataclasses.replace(
            status,
            state=JobState.FAILED,
            reason="Cancelled",
            message="was cancelled; submit it again and it continues from its last checkpoint",
            finished=datetime.now(UTC),
            pods=(),
        )

    def delete(self, name: str) -> None:
        """Deletes a job with its pods and logs; what it wrote to shared storage stays."""
        self._delete(self._job(name))

    def _job(self, name: str, *, patience: float = PATIENCE) -> Manifest:
        """Returns the job with that name, or the newest of the run with that name."""
        is_name = re.fullmatch(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?", name)
        job = self._cluster.find(JOBS, name, patience=patience) if is_name else None
        if job is not None:
            return job
        labels = f"{LABEL_RUN}={name}"
        of_run = self._cluster.list(JOBS, labels=labels, patience=patience) if is_name else ()
        if not of_run:
            raise no_such_job(name, (job.name for job in self.list()))
        return max(of_run, key=lambda job: str(job["metadata"]["creationTimestamp"]))

    def _status(self, job: Manifest, *, patience: float = PATIENCE) -> JobStatus:
        return status_of(job, job_pods(self._cluster, job, patience=patience))

    def _check_namespace(self, manifest: JobManifest) -> None:
        for document in manifest.documents:
            found = document["metadata"].get("namespace", self._cluster.namespace)
            if found != self._cluster.namespace:
                raise UserError(
                    f"metadata.namespace = {found!r} of {document['kind']} "
                    f"{document['metadata']['name']}; allowed here: {self._cluster.namespace}"
                )

    def _create(self, manifest: JobManifest, job: Manifest) -> Manifest | None:
        """Creates a job and what it mounts; None if one of its name is there."""
        self._put_config_maps(manifest)
        with suppress_code(409):
            return self._cluster.create(JOBS, job)
        return None

    def _put_config_maps(self, manifest: JobManifest) -> None:
        """Creates the ConfigMaps, or sets them to what the manifest says."""
        for config_map in manifest.config_maps:
            try:
                self._cluster.create(CONFIG_MAPS, config_map)
            except RefusedError as error:
                if error.code != 409:
                    raise
                self._free_config_map(config_map)

    def _free_config_map(self, wanted: Manifest) -> None:
        """Takes the owner off the ConfigMap that is there; makes it anew if it says otherwise."""
        name = wanted["metadata"]["name"]
        found = self._cluster.find(CONFIG_MAPS, name)
        if found is not None and found.get("data") == wanted.get("data"):
            self._cluster.patch(CONFIG_MAPS, name, {"metadata": {"ownerReferences": None}})
            return
        if found is not None:  # it may be immutable
            self._cluster.delete(CONFIG_MAPS, found)
        with suppress_code(409):  # another submit of the same job was faster
            self._cluster.create(CONFIG_MAPS, wanted)

    def _adopt(self, manifest: JobManifest, job: Manifest) -> None:
        """Makes the job the owner of its ConfigMaps, which end with it; mends a cut-off submit."""
        keys = ("apiVersion", "kind")
        owner = {key: job[key] for key in keys} | {
            key: job["metadata"][key] for key in ("name", "uid")
        }
        patch = {"metadata": {"ownerReferences": [owner]}}
        for config_map in manifest.config_maps:
            name = config_map["metadata"]["name"]
            if self._cluster.find(CONFIG_MAPS, name) is None:
                self._put_config_maps(JobManifest(job, (config_map,)))
            self._cluster.patch(CONFIG_MAPS, name, patch)

    def _delete(self, job: Manifest) -> None:
        """Deletes a job and waits until it and its pods are gone."""
        self._cluster.delete(JOBS, job)
        deadline = time.monotonic() + grace(job) + SLACK.total_seconds()
        name, uid = job["metadata"]["name"], job["metadata"]["uid"]
        while True:
            left = job_pods(self._cluster, job)
            live = self._cluster.find(JOBS, name)
            if not left and (live is None or live["metadata"]["uid"] != uid):
                return
            if time.monotonic() > deadline:
                what = ", ".join(pod["metadata"]["name"] for pod in left) or f"the job {name}"
                raise InfrastructureError(
                    f"{what} is deleted but does not go; see: florence jobs events, and whether "
                    "its node is lost"
                )
            time.sleep(self._poll_seconds / 2)

    def _set_suspended(self, name: str, *, suspended: bool) -> JobStatus:
        job = self._job(name)
        name = job["metadata"]["name"]
        state = self._status(job).state
        if state.is_finished:
            verb = "suspended" if suspended else "resumed"
            raise UserError(f"job {name} has {state}; only one that has not ended can be {verb}")
        if QUEUE_LABEL not in (job["metadata"].get("labels") or {}):
            patch: Manifest = {"spec": {"runPolicy": {"suspend": suspended}}}
            self._cluster.patch(JOBS, name, patch)
            return self.status(name)
        workload = find_workload(self._cluster, job)  # Kueue would undo what is done to the job
        if workload is None:
            raise UserError(f"job {name} has not been taken up by its queue yet: try again")
        patch = {"spec": {"active": not suspended}}
        self._cluster.patch(WORKLOADS, workload["metadata"]["name"], patch)
        return self.status(name)

    def _look(self, job: Manifest, rank: int | None) -> Seen:
        """Looks at a job for one who follows its logs, and at what is left of it once deleted."""
        name, uid = job["metadata"]["name"], job["metadata"]["uid"]
        live = self._cluster.find(JOBS, name, patience=OUTAGE)  # first: it may end meanwhile
        pods = job_pods(self._cluster, job, patience=OUTAGE)
        if live is None or live["metadata"]["uid"] != uid:
            ends = True
        else:
            ends = job_status(live, (), restarts=0).state.is_finished
        stay = job["spec"].get("runPolicy", {}).get("cleanPodPolicy", "None") == "None"
        left = any(may_print(pod) and not (stay and live) for pod in pods)
        wanted = [pod for pod in pods if rank in (None, node_rank(job, pod))]
        return Seen(wanted, is_last=ends and not left)


def _left(deadline: float) -> float:
    """Returns the seconds a request may be tried for."""
    return min(OUTAGE, max(0.0, deadline - time.monotonic()))
