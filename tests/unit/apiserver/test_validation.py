"""What the server refuses: unknown fields, wrong types, missing fields, bad names, bad patches."""

from __future__ import annotations

import json

import pytest
from kubernetes.client.exceptions import ApiException

from tests.apiserver.errors import ApiError
from tests.apiserver.patches import JSON_PATCH, MERGE_PATCH, STRATEGIC_PATCH, apply_patch
from tests.apiserver.resources import BY_KIND
from tests.apiserver.schema import check

POD, JOB, CONFIG_MAP = BY_KIND["Pod"], BY_KIND["PyTorchJob"], BY_KIND["ConfigMap"]


def test_unknown_fields_are_refused_named_or_dropped(make_job):
    job = make_job("demo")
    job["spec"]["pytorchReplicaSpecs"]["Worker"]["replica"] = 3
    job["spec"]["runPolicy"]["backofLimit"] = 3
    unknown = [
        'unknown field "spec.runPolicy.backofLimit"',
        'unknown field "spec.pytorchReplicaSpecs.Worker.replica"',
    ]
    with pytest.raises(ApiError) as error:
        check(JOB, job, field_validation="Strict")
    assert error.value.code == 400
    assert all(text in error.value.message for text in unknown)
    pruned, warnings = check(JOB, job, field_validation="Warn")
    assert sorted(warnings) == sorted(unknown)
    assert pruned == make_job("demo")
    assert check(JOB, job, field_validation="Ignore") == (pruned, [])


def test_a_warning_reaches_the_client(jobs, client, make_job):
    job = make_job("demo")
    job["spec"]["surprise"] = 1
    jobs.create(job, field_validation="Warn")
    warning = client.last_response.getheader("Warning")
    assert warning == '299 - "unknown field \\"spec.surprise\\""'


@pytest.mark.parametrize(
    ("field", "value", "found"),
    [
        ("replicas", "two", "spec.pytorchReplicaSpecs.Worker.replicas: Invalid value: 'two'"),
        ("replicas", True, "must be of type int"),
        ("template", [], "spec.pytorchReplicaSpecs.Worker.template"),
    ],
)
def test_wrong_types_in_a_custom_resource_are_422(jobs, make_job, field, value, found):
    job = make_job("demo")
    job["spec"]["pytorchReplicaSpecs"]["Worker"][field] = value
    with pytest.raises(ApiException) as error:
        jobs.create(job)
    assert error.value.status == 422
    assert found in json.loads(error.value.body)["message"]


def test_wrong_types_in_a_built_in_kind_are_400(core, make_pod):
    pod = make_pod("a")
    pod["spec"]["containers"][0]["env"] = [{"name": "A", "value": 1}]
    with pytest.raises(ApiException) as error:
        core.create_namespaced_pod("default", pod)
    assert error.value.status == 400
    assert "spec.containers[0].env[0].value" in error.value.body


def test_quantities_may_be_numbers_and_ports_names(make_pod):
    pod = make_pod("a")
    container = pod["spec"]["containers"][0]
    container["resources"] = {"limits": {"cpu": 1, "nvidia.com/gpu": 8, "memory": "1Gi"}}
    probe = {"port": "http", "path": "/"}
    container["livenessProbe"] = {"httpGet": probe}
    assert check(POD, pod, field_validation="Strict")[0] == pod


def test_required_fields():
    job = {"apiVersion": "kubeflow.org/v1", "kind": "PyTorchJob", "metadata": {"name": "demo"}}
    with pytest.raises(ApiError, match=r"spec\.pytorchReplicaSpecs: Required value") as error:
        check(JOB, {**job, "spec": {}}, field_validation="Strict")
    assert error.value.code == 422
    replica = {"template": {"spec": {"containers": [{"image": "x"}]}}}
    spec = {"pytorchReplicaSpecs": {"Master": replica}}
    with pytest.raises(ApiError, match=r"template\.spec\.containers\[0\]\.name: Required value"):
        check(JOB, {**job, "spec": spec}, field_validation="Strict")


@pytest.mark.parametrize("name", ["Demo", "-demo", "a_b", "", "x" * 254])
def test_bad_names(name):
    with pytest.raises(ApiError, match=r"metadata\.name") as error:
        check(CONFIG_MAP, {"metadata": {"name": name}}, field_validation="Strict")
    assert error.value.code == 422


def test_bad_label_values():
    metadata = {"name": "a", "labels": {"key": "not a value"}}
    with pytest.raises(ApiError, match="not a value"):
        check(CONFIG_MAP, {"metadata": metadata}, field_validation="Strict")


def test_the_object_must_be_what_the_url_says(core, jobs, make_job):
    for job in (
        {**make_job("demo"), "kind": "TFJob"},
        {**make_job("demo"), "metadata": {"name": "demo", "namespace": "elsewhere"}},
    ):
        with pytest.raises(ApiException) as error:
            jobs.create(job)
        assert error.value.status == 400
    with pytest.raises(ApiException) as error:
        core.create_namespaced_pod("default", "no object")
    assert error.value.status == 400


def patched(patch: object, current: dict, content_type: str = JSON_PATCH) -> dict:
    return apply_patch(POD, content_type, json.dumps(patch).encode(), current)


def test_json_patch():
    current = {"a": {"b/c": [1, 2]}, "d": 1}
    patch = [
        {"op": "test", "path": "/d", "value": 1},
        {"op": "add", "path": "/a/b~1c/-", "value": 3},
        {"op": "replace", "path": "/a/b~1c/0", "value": 0},
        {"op": "move", "from": "/d", "path": "/a/d"},
        {"op": "copy", "from": "/a/b~1c", "path": "/e"},
        {"op": "remove", "path": "/a/b~1c/1"},
    ]
    assert patched(patch, current) == {"a": {"b/c": [0, 3], "d": 1}, "e": [0, 2, 3]}
    assert current == {"a": {"b/c": [1, 2]}, "d": 1}


@pytest.mark.parametrize(
    "operation",
    [
        {"op": "test", "path": "/d", "value": 2},
        {"op": "remove", "path": "/missing"},
        {"op": "replace", "path": "/missing", "value": 1},
        {"op": "add", "path": "/missing/child", "value": 1},
        {"op": "grow", "path": "/d", "value": 1},
    ],
)
def test_json_patch_that_does_not_fit(operation):
    with pytest.raises(ApiError) as error:
        patched([operation], {"d": 1})
    assert error.value.code == 422


def test_merge_patch():
    current = {"spec": {"a": 1, "list": [1, 2]}, "kept": True}
    patch = {"spec": {"a": None, "list": [3], "new": {"x": 1, "y": None}}}
    merged = {"spec": {"list": [3], "new": {"x": 1}}, "kept": True}
    assert patched(patch, current, MERGE_PATCH) == merged


def test_strategic_merge_patch():
    containers = [{"name": "a", "image": "1", "env": [{"name": "X", "value": "1"}]}, {"name": "b"}]
    current = {"spec": {"containers": containers, "tolerations": [{"key": "k"}]}}
    patch = {
        "spec": {
            "$setElementOrder/containers": [{"name": "a"}, {"name": "c"}],
            "containers": [
                {"name": "a", "env": [{"name": "Y", "value": "2"}]},
                {"name": "b", "$patch": "delete"},
                {"name": "c"},
            ],
            "tolerations": [{"key": "other"}],
        }
    }
    merged = patched(patch, current, STRATEGIC_PATCH)["spec"]
    environment = [{"name": "X", "value": "1"}, {"name": "Y", "value": "2"}]
    assert merged["containers"] == [{"name": "a", "image": "1", "env": environment}, {"name": "c"}]
    assert merged["tolerations"] == [{"key": "other"}]


@pytest.mark.parametrize(
    ("resource", "content_type", "body", "code"),
    [
        (JOB, STRATEGIC_PATCH, b"{}", 415),
        (POD, "application/apply-patch+yaml", b"{}", 415),
        (POD, MERGE_PATCH, b"[]", 400),
        (POD, JSON_PATCH, b"{}", 400),
        (POD, MERGE_PATCH, b"{", 400),
    ],
)
def test_patches_that_are_none(resource, content_type, body, code):
    with pytest.raises(ApiError) as error:
        apply_patch(resource, content_type, body, {})
    assert error.value.code == code
