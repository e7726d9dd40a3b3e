"""The Python clients against the server: writing, reading, paging, watching, owning."""

from __future__ import annotations

import threading

import pytest
from kubernetes import client as k8s
from kubernetes import watch
from kubernetes.client.exceptions import ApiException


def status_of(error: pytest.ExceptionInfo[ApiException]) -> int:
    return error.value.status


def test_create_fills_in_metadata_and_a_second_one_conflicts(jobs, make_job):
    created = jobs.create(make_job("demo"))
    metadata = created["metadata"]
    assert metadata["namespace"] == "default"
    assert metadata["generation"] == 1
    assert metadata["uid"]
    assert metadata["resourceVersion"]
    assert metadata["creationTimestamp"].endswith("Z")
    assert jobs.get("demo") == created
    with pytest.raises(ApiException) as error:
        jobs.create(make_job("demo"))
    assert status_of(error) == 409
    assert '"AlreadyExists"' in error.value.body


def test_what_is_not_there_is_404(jobs, core, make_pod):
    with pytest.raises(ApiException) as error:
        jobs.get("nothing")
    assert status_of(error) == 404
    assert 'pytorchjobs.kubeflow.org \\"nothing\\" not found' in error.value.body
    with pytest.raises(ApiException) as error:
        core.create_namespaced_pod("no-such-namespace", make_pod("a"))
    assert status_of(error) == 404


def test_a_write_based_on_an_old_version_conflicts(jobs, make_job):
    old = jobs.create(make_job("demo"))
    jobs.patch("demo", {"metadata": {"labels": {"stage": "two"}}})
    with pytest.raises(ApiException) as error:
        jobs.replace(old)
    assert status_of(error) == 409
    with pytest.raises(ApiException) as error:
        jobs.patch("demo", {"metadata": {"resourceVersion": old["metadata"]["resourceVersion"]}})
    assert status_of(error) == 409
    del old["metadata"]["resourceVersion"]
    with pytest.raises(ApiException) as error:
        jobs.replace(old)
    assert status_of(error) == 422


def test_generation_counts_the_spec_and_nothing_is_no_new_version(jobs, make_job):
    first = jobs.create(make_job("demo"))["metadata"]
    same = jobs.patch("demo", {"metadata": {"labels": {"team": "vision"}}})["metadata"]
    assert same == first
    labelled = jobs.patch("demo", {"metadata": {"labels": {"team": None}}})["metadata"]
    assert (labelled["generation"], labelled["labels"]) == (1, {})
    suspended = jobs.patch("demo", {"spec": {"runPolicy": {"suspend": True}}})
    assert suspended["metadata"]["generation"] == 2


def test_status_and_spec_are_written_apart(jobs, make_job):
    created = jobs.create({**make_job("demo"), "status": {"startTime": "2026-01-01T00:00:00Z"}})
    assert "status" not in created
    conditions = [{"type": "Created", "status": "True"}]
    changed = {**created, "status": {"conditions": conditions}, "spec": {"nothing": "of this"}}
    written = jobs.api.replace_namespaced_custom_object_status(*jobs.where, "demo", changed)
    assert written["status"] == {"conditions": conditions}
    assert written["spec"] == created["spec"]
    assert written["metadata"]["generation"] == 1
    patched = jobs.patch("demo", {"status": {"conditions": []}})
    assert patched["status"] == {"conditions": conditions}


def test_a_pod_keeps_its_spec(core, make_pod):
    core.create_namespaced_pod("default", make_pod("a"))
    core.patch_namespaced_pod("a", "default", {"metadata": {"labels": {"new": "label"}}})
    with pytest.raises(ApiException) as error:
        core.patch_namespaced_pod("a", "default", {"spec": {"restartPolicy": "Never"}})
    assert status_of(error) == 422


def test_strategic_merge_keeps_the_other_containers(client):
    apps = k8s.AppsV1Api(client)
    containers = [{"name": name, "image": "old"} for name in ("main", "sidecar")]
    template = {"metadata": {"labels": {"app": "a"}}, "spec": {"containers": containers}}
    spec = {"selector": {"matchLabels": {"app": "a"}}, "template": template}
    apps.create_namespaced_deployment("default", {"metadata": {"name": "a"}, "spec": spec})
    patch = {"spec": {"containers": [{"name": "sidecar", "image": "new"}]}}
    patched = apps.patch_namespaced_deployment("a", "default", {"spec": {"template": patch}})
    images = {c.name: c.image for c in patched.spec.template.spec.containers}
    assert images == {"main": "old", "sidecar": "new"}


def test_dry_run_answers_and_stores_nothing(jobs, make_job):
    answer = jobs.create(make_job("demo"), dry_run="All")
    assert answer["metadata"]["uid"]
    with pytest.raises(ApiException):
        jobs.get("demo")
    created = jobs.create(make_job("demo"))
    jobs.delete("demo", dry_run="All")
    assert jobs.get("demo") == created


@pytest.mark.parametrize(
    ("selector", "names"),
    [
        ("color=red", "ab"),
        ("color!=red", "cd"),
        ("color in (red, blue),size", "bc"),
        ("color notin (red,blue)", "d"),
        ("!size", "ad"),
    ],
)
def test_label_selectors(core, make_pod, selector, names):
    labels = {
        "a": {"color": "red"},
        "b": {"color": "red", "size": "s"},
        "c": {"color": "blue", "size": "m"},
        "d": {},
    }
    for name, own in labels.items():
        core.create_namespaced_pod("default", make_pod(name, **own))
    listed = core.list_namespaced_pod("default", label_selector=selector).items
    assert "".join(pod.metadata.name for pod in listed) == names


def test_field_selectors_and_those_a_kind_does_not_have(core, server, make_pod):
    for name in ("a", "b"):
        core.create_namespaced_pod("default", make_pod(name))
    server.store.set_status("Pod", "b", {"phase": "Running"})
    running = core.list_namespaced_pod("default", field_selector="status.phase=Running").items
    assert [pod.metadata.name for pod in running] == ["b"]
    about_b = "involvedObject.name=b,involvedObject.kind=Pod"
    for name in ("a", "b"):
        pod = server.store.get("Pod", name)
        server.store.event(pod, type="Normal", reason=f"About-{name}", message="")
    events = core.list_namespaced_event("default", field_selector=about_b).items
    assert [event.reason for event in events] == ["About-b"]
    for selector in ("spec.image=x", "status.phase"):
        with pytest.raises(ApiException) as error:
            core.list_namespaced_pod("default", field_selector=selector)
        assert status_of(error) == 400


def test_pages_show_one_snapshot_until_it_expires(core, server, make_pod):
    for index in range(5):
        core.create_namespaced_pod("default", make_pod(f"pod-{index}"))
    first = core.list_namespaced_pod("default", limit=2)
    assert first.metadata.remaining_item_count == 3
    core.delete_namespaced_pod("pod-4", "default")
    token = first.metadata._continue
    second = core.list_namespaced_pod("default", limit=2, _continue=token)
    third = core.list_namespaced_pod("default", limit=2, _continue=second.metadata._continue)
    pages = [[pod.metadata.name for pod in page.items] for page in (first, second, third)]
    assert pages == [["pod-0", "pod-1"], ["pod-2", "pod-3"], ["pod-4"]]
    assert third.metadata._continue is None
    assert third.metadata.resource_version == first.metadata.resource_version
    server.store.compact()
    with pytest.raises(ApiException) as error:
        core.list_namespaced_pod("default", limit=2, _continue=token)
    assert status_of(error) == 410


def test_watch_tells_every_change_from_a_revision_on(core, make_pod):
    start = core.list_namespaced_pod("default").metadata.resource_version
    core.create_namespaced_pod("default", make_pod("a", color="red"))
    core.create_namespaced_pod("default", make_pod("b"))
    core.patch_namespaced_pod("a", "default", {"metadata": {"labels": {"color": "blue"}}})
    core.delete_namespaced_pod("b", "default")
    seen = watched(core, resource_version=start)
    assert seen == ["ADDED a", "ADDED b", "MODIFIED a", "DELETED b"]
    red = watched(core, resource_version=start, label_selector="color=red")
    assert red == ["ADDED a", "DELETED a"]
    assert watched(core) == ["ADDED a"]


def watched(core: k8s.CoreV1Api, **options: object) -> list[str]:
    stream = watch.Watch().stream(core.list_namespaced_pod, "default", timeout_seconds=1, **options)
    return [f"{event['type']} {event['object'].metadata.name}" for event in stream]


def test_watch_sends_changes_at_once(core, make_pod):
    stream = watch.Watch().stream(core.list_namespaced_pod, "default", timeout_seconds=20)
    create = threading.Timer(0.3, core.create_namespaced_pod, ("default", make_pod("a")))
    create.start()
    assert next(iter(stream))["object"].metadata.name == "a"
    create.join()


def test_watch_of_a_forgotten_revision_is_410_and_bookmarks_come(core, server, make_pod):
    start = core.list_namespaced_pod("default").metadata.resource_version
    core.create_namespaced_pod("default", make_pod("a"))
    server.store.compact()
    with pytest.raises(ApiException) as error:
        watched(core, resource_version=start)
    assert status_of(error) == 410
    now = core.list_namespaced_pod("default").metadata.resource_version
    answer = core.list_namespaced_pod(
        "default",
        watch=True,
        resource_version=now,
        allow_watch_bookmarks=True,
        timeout_seconds=1,
        _preload_content=False,
    )
    assert b'"type":"BOOKMARK"' in answer.data


def test_what_a_job_owned_goes_with_it(jobs, core, make_job, make_pod):
    uid = jobs.create(make_job("demo"))["metadata"]["uid"]
    owner = {"apiVersion": "kubeflow.org/v1", "kind": "PyTorchJob", "name": "demo", "uid": uid}
    for name, owners in (("owned", [owner]), ("free", [])):
        pod = make_pod(name)
        pod["metadata"]["ownerReferences"] = owners
        core.create_namespaced_pod("default", pod)
    jobs.delete("demo")
    assert [pod.metadata.name for pod in core.list_namespaced_pod("default").items] == ["free"]


def test_orphans_stay(jobs, core, make_job, make_pod):
    uid = jobs.create(make_job("demo"))["metadata"]["uid"]
    pod = make_pod("owned")
    owner = {"apiVersion": "kubeflow.org/v1", "kind": "PyTorchJob", "name": "demo", "uid": uid}
    pod["metadata"]["ownerReferences"] = [owner]
    core.create_namespaced_pod("default", pod)
    jobs.delete("demo", propagation_policy="Orphan")
    assert core.read_namespaced_pod("owned", "default").metadata.owner_references == []


def test_delete_conditions_finalizers_and_collections(core, make_pod):
    pod = make_pod("held")
    pod["metadata"]["finalizers"] = ["example.com/hold"]
    core.create_namespaced_pod("default", pod)
    with pytest.raises(ApiException) as error:
        core.delete_namespaced_pod("held", "default", body={"preconditions": {"uid": "other"}})
    assert status_of(error) == 409
    core.delete_namespaced_pod("held", "default")
    assert core.read_namespaced_pod("held", "default").metadata.deletion_timestamp
    core.patch_namespaced_pod("held", "default", {"metadata": {"finalizers": None}})
    assert core.list_namespaced_pod("default").items == []
    for name, color in (("a", "red"), ("b", "red"), ("c", "blue")):
        core.create_namespaced_pod("default", make_pod(name, color=color))
    core.delete_collection_namespaced_pod("default", label_selector="color=red")
    assert [pod.metadata.name for pod in core.list_namespaced_pod("default").items] == ["c"]


def test_a_namespace_goes_with_all_that_is_in_it(core, make_pod):
    core.create_namespace({"metadata": {"name": "team"}})
    core.create_namespaced_pod("team", make_pod("a"))
    core.create_namespaced_pod("default", make_pod("a"))
    core.delete_namespace("team")
    everywhere = core.list_pod_for_all_namespaces().items
    assert [pod.metadata.namespace for pod in everywhere] == ["default"]


def test_generate_name(core, make_pod):
    pod = make_pod("")
    pod["metadata"] = {"generateName": "worker-"}
    names = {core.create_namespaced_pod("default", pod).metadata.name for _ in range(3)}
    assert len(names) == 3
    assert all(len(name) == len("worker-") + 5 for name in names)
