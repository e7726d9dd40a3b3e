"""401, 403, access reviews, TLS with in-cluster configuration, clusters without an operator."""

from __future__ import annotations

import json

import kubernetes
import pytest
from kubernetes.client.exceptions import ApiException

from tests.apiserver import Access, ApiServer, Rule
from tests.apiserver.access import Action, role_rules

ROLE = {
    "kind": "Role",
    "metadata": {"name": "submitter", "namespace": "default"},
    "rules": [
        {"apiGroups": ["kubeflow.org"], "resources": ["pytorchjobs"], "verbs": ["create", "get"]},
        {"apiGroups": [""], "resources": ["pods", "pods/log"], "verbs": ["get", "list"]},
        {
            "apiGroups": [""],
            "resources": ["configmaps"],
            "resourceNames": ["mine"],
            "verbs": ["update"],
        },
    ],
}


def core_api(server: ApiServer, tmp_path, **user) -> kubernetes.client.CoreV1Api:
    path = server.write_kubeconfig(tmp_path / "kubeconfig")
    config = json.loads(path.read_text())
    config["users"][0]["user"] |= user
    path.write_text(json.dumps(config))
    return kubernetes.client.CoreV1Api(kubernetes.config.new_client_from_config(str(path)))


def test_a_token_lets_in_and_its_lack_is_401(tmp_path):
    with ApiServer(access=Access(token="right")) as server:
        assert core_api(server, tmp_path).list_namespaced_pod("default").items == []
        with pytest.raises(ApiException) as error:
            core_api(server, tmp_path, token="wrong").list_namespaced_pod("default")
        assert error.value.status == 401


def test_forbidden_names_verb_resource_and_namespace(tmp_path):
    denied = Rule(verbs=("list",), resources=("pods",), namespaces=("default",))
    with ApiServer(access=Access(denied=(denied,))) as server:
        core = core_api(server, tmp_path)
        with pytest.raises(ApiException) as error:
            core.list_namespaced_pod("default")
        assert error.value.status == 403
        message = json.loads(error.value.body)["message"]
        assert 'cannot list resource "pods" in API group "" in the namespace "default"' in message
        assert core.list_namespaced_pod("kube-system").items == []


def test_rules_of_a_role():
    access = Access(allowed=role_rules(ROLE))
    assert access.allows(Action("create", "kubeflow.org", "pytorchjobs", "default"))
    assert access.allows(Action("get", "", "pods/log", "default", "a"))
    assert access.allows(Action("update", "", "configmaps", "default", "mine"))
    assert not access.allows(Action("update", "", "configmaps", "default", "yours"))
    assert not access.allows(Action("create", "kubeflow.org", "pytorchjobs", "other"))
    assert not access.allows(Action("delete", "kubeflow.org", "pytorchjobs", "default"))
    assert not access.allows(Action("create", "", "pytorchjobs", "default"))


@pytest.mark.parametrize(("verb", "allowed"), [("create", True), ("delete", False)])
def test_access_review(tmp_path, verb, allowed):
    with ApiServer(access=Access(allowed=role_rules(ROLE))) as server:
        client = core_api(server, tmp_path).api_client
        attributes = {
            "verb": verb,
            "group": "kubeflow.org",
            "resource": "pytorchjobs",
            "namespace": "default",
        }
        review = kubernetes.client.AuthorizationV1Api(client).create_self_subject_access_review(
            {"spec": {"resourceAttributes": attributes}}
        )
        assert review.status.allowed is allowed


def test_in_cluster_configuration_over_tls(tmp_path):
    with ApiServer(access=Access(token="secret"), tls=True) as server:
        host, _, port = server.url.removeprefix("https://").partition(":")
        (tmp_path / "token").write_text("secret")
        configuration = kubernetes.client.Configuration()
        kubernetes.config.incluster_config.InClusterConfigLoader(
            token_filename=str(tmp_path / "token"),
            cert_filename=str(server.certificate),
            environ={"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": port},
        ).load_and_set(configuration)
        core = kubernetes.client.CoreV1Api(kubernetes.client.ApiClient(configuration))
        assert [ns.metadata.name for ns in core.list_namespace().items] == [
            "default",
            "kube-system",
        ]


def test_a_cluster_without_the_operator(tmp_path):
    with ApiServer(without_groups=("kubeflow.org",)) as server:
        client = core_api(server, tmp_path).api_client
        with pytest.raises(ApiException) as error:
            kubernetes.client.CustomObjectsApi(client).list_namespaced_custom_object(
                "kubeflow.org", "v1", "default", "pytorchjobs"
            )
        assert error.value.status == 404
        crds = kubernetes.client.ApiextensionsV1Api(client).list_custom_resource_definition()
        names = [crd.metadata.name for crd in crds.items]
        assert "pytorchjobs.kubeflow.org" not in names
        assert "workloads.kueue.x-k8s.io" in names


def test_version_and_health(client):
    assert kubernetes.client.VersionApi(client).get_code().git_version.startswith("v1.")
    answer = client.call_api("/healthz", "GET", _preload_content=False)[0]
    assert answer.data == b"ok"
