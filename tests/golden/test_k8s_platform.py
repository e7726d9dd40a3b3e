"""The hand-written manifests of k8s/, every overlay and combination of components, offline.

Each test names a mistake that a cluster would show late, or never.
"""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from kubernetes import client

import florence
from florence.config.cluster import ClusterConfig

Manifest = dict[str, Any]

ROOT = Path(__file__).parents[2]
K8S = ROOT / "k8s"
COMPONENTS = ("postgres", "kueue", "gpu-pool", "spot", "rdma", "monitoring")  # in this order
TRAINING_LABELS = {"training.kubeflow.org/operator-name": "pytorchjob-controller"}
HARDENED = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}
SECRET = re.compile(r"PASSWORD|SECRET|TOKEN|ACCESS_KEY|CREDENTIAL", re.IGNORECASE)

# Kinds the Kubernetes client has no model of, with the fields of their spec.
CUSTOM = {
    "ResourceFlavor": {"nodeLabels", "nodeTaints", "tolerations", "topologyName"},
    "ClusterQueue": {"namespaceSelector", "preemption", "queueingStrategy", "resourceGroups"},
    "LocalQueue": {"clusterQueue"},
    "Topology": {"levels"},
    "PodMonitor": {"podMetricsEndpoints", "selector"},
    "PrometheusRule": {"groups"},
}

pytestmark = pytest.mark.skipif(shutil.which("kubectl") is None, reason="needs kubectl")


def kustomize(folder: Path) -> list[Manifest]:
    """Returns the objects `kubectl kustomize` makes of a folder."""
    return list(yaml.load_all(run("kubectl", "kustomize", ".", folder=folder), yaml.CSafeLoader))


def run(*command: str, folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def combine(components: tuple[str, ...]) -> list[Manifest]:
    """Returns the base with the given components."""
    with tempfile.TemporaryDirectory() as folder:
        parts = [os.path.relpath(K8S / "components" / name, folder) for name in components]
        content = {"resources": [os.path.relpath(K8S / "base", folder)], "components": parts}
        Path(folder, "kustomization.yaml").write_text(yaml.safe_dump(content))
        return kustomize(Path(folder))


@cache
def build(name: str) -> list[Manifest]:
    return combine(COMPONENTS) if name == "everything" else kustomize(K8S / name)


@pytest.fixture(params=["overlays/dev", "overlays/prod", "everything"])
def objects(request: pytest.FixtureRequest) -> list[Manifest]:
    return build(request.param)


def jobs() -> list[Manifest]:
    """Returns the rendered jobs that are committed."""
    files = sorted((K8S / "jobs").glob("*.yaml"))
    return [one for file in files for one in yaml.safe_load_all(file.read_text()) if one]


class Pod(NamedTuple):
    """A pod template, with the namespace its pods will be in."""

    name: str
    namespace: str
    labels: dict[str, str]
    spec: Manifest

    @property
    def containers(self) -> list[Manifest]:
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]


def pods(documents: list[Manifest]) -> Iterator[Pod]:
    for document in documents:
        spec = document.get("spec", {})
        spec = spec["jobTemplate"]["spec"] if document["kind"] == "CronJob" else spec
        templates = [spec["template"]] if "template" in spec else []
        templates += [one["template"] for one in spec.get("pytorchReplicaSpecs", {}).values()]
        for template in templates:
            metadata = document["metadata"]
            yield Pod(
                f"{document['kind']}/{metadata['name']}",
                metadata["namespace"],
                template.get("metadata", {}).get("labels", {}),
                template["spec"],
            )


def of_kind(documents: list[Manifest], kind: str) -> dict[tuple[str, str], Manifest]:
    return {
        (one["metadata"].get("namespace", ""), one["metadata"]["name"]): one
        for one in documents
        if one["kind"] == kind
    }


def unknown_fields(value: Any, type_name: str, path: str) -> list[str]:
    """Returns the fields of `value` that the API does not know: it would refuse or drop them."""
    if (item := re.fullmatch(r"list\[(.+)]", type_name)) and isinstance(value, list):
        parts = (unknown_fields(v, item[1], f"{path}[{i}]") for i, v in enumerate(value))
        return [fault for part in parts for fault in part]
    model = getattr(client, type_name, None)
    if model is None or not isinstance(value, dict):
        fits = {"str": str, "int": int, "bool": bool}.get(type_name, object)
        return [] if isinstance(value, fits) else [f"{path}: {value!r} is no {type_name}"]
    by_json = {name: model.openapi_types[key] for key, name in model.attribute_map.items()}
    faults = [f"{path}.{key} is unknown" for key in value if key not in by_json]
    for key in value.keys() & by_json.keys():
        faults += unknown_fields(value[key], by_json[key], f"{path}.{key}")
    return faults


def faults(document: Manifest) -> list[str]:
    kind, version = document["kind"], document["apiVersion"].split("/")[-1].capitalize()
    if kind in CUSTOM:
        spec = document.get("spec", {})
        return [f"{kind}.spec.{key}" for key in spec if key not in CUSTOM[kind]]
    assert hasattr(client, version + kind), f"{document['apiVersion']} {kind} is no kind"
    return unknown_fields(document, version + kind, kind)


def matches(selector: Manifest | None, labels: dict[str, str]) -> bool:
    selector = selector or {}
    wanted = selector.get("matchLabels", {}).items() <= labels.items()
    expressions = selector.get("matchExpressions", [])
    return wanted and all(labels.get(one["key"]) in one["values"] for one in expressions)


def test_every_field_is_known_to_the_api(objects: list[Manifest]) -> None:
    assert [fault for document in objects for fault in faults(document)] == []


def test_every_combination_of_components_builds() -> None:
    # A component may amend what another brought, but must not fail where that is absent.
    for count in range(len(COMPONENTS) + 1):
        for chosen in itertools.combinations(COMPONENTS, count):
            assert combine(chosen), chosen


def test_namespaces_enforce_restricted_pods(objects: list[Manifest]) -> None:
    namespaces = of_kind(objects, "Namespace")
    assert {name for _, name in namespaces} == {"florence", "florence-platform"}
    for document in namespaces.values():
        labels = document["metadata"]["labels"]
        assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    # An object in a namespace nobody labelled would run with no level enforced.
    used = {one["metadata"].get("namespace") for one in objects} - {None}
    assert used == {"florence", "florence-platform"}


def test_pods_pass_the_restricted_level_and_hold_no_token(objects: list[Manifest]) -> None:
    for pod in pods(objects):
        context = pod.spec["securityContext"]
        assert context["runAsNonRoot"] is True, pod.name
        assert context["runAsUser"] >= 999, pod.name
        assert context["seccompProfile"]["type"] == "RuntimeDefault", pod.name
        assert pod.spec["automountServiceAccountToken"] is False, pod.name
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.spec.keys(), pod.name
        assert not [v for v in pod.spec.get("volumes", []) if "hostPath" in v], pod.name
        for container in pod.containers:
            assert container["securityContext"] == HARDENED, f"{pod.name}/{container['name']}"


def test_the_operators_init_container_passes_the_restricted_level() -> None:
    # The namespace refuses the operator's own one, and with it the workers of every job.
    (config_map,) = kustomize(K8S / "operator")
    template = config_map["data"]["initContainer.yaml"]
    text = template.replace("{{.MaxTries}}", "100").replace("{{.MasterAddr}}", "a-master-0")
    assert "{{" not in text
    (container,) = yaml.safe_load(text)
    assert unknown_fields(container, "V1Container", "init") == []
    assert container["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": 1000,
        "seccompProfile": {"type": "RuntimeDefault"},
        **HARDENED,
    }
    patch = yaml.safe_load((K8S / "operator/patch.yaml").read_text())["spec"]["template"]["spec"]
    assert patch["volumes"][0]["configMap"]["name"] == config_map["metadata"]["name"]


def test_containers_have_resources_and_servers_have_probes(objects: list[Manifest]) -> None:
    # Without requests a pod is the first to be evicted; without limits it can evict others.
    for pod in pods(objects):
        for container in pod.containers:
            name = f"{pod.name}/{container['name']}"
            for kind in ("requests", "limits"):
                assert {"cpu", "memory"} <= container["resources"][kind].keys(), name
            if "ports" in container:
                assert {"startupProbe", "readinessProbe", "livenessProbe"} <= container.keys(), name


def test_images_are_pinned_and_name_no_registry(objects: list[Manifest]) -> None:
    ours = {ClusterConfig().image, f"florence-mlflow:{florence.__version__}"}
    for pod in pods(objects):
        for container in pod.containers:
            image = container["image"]
            first, _, rest = image.partition("/")
            assert not (rest and ("." in first or ":" in first)), f"only a site knows {first}"
            assert "@sha256:" in image or re.search(r":[0-9]+(\.[0-9]+)+[^:]*$", image), image
            assert image in ours or not image.startswith("florence"), image


def test_every_name_a_pod_refers_to_exists(objects: list[Manifest]) -> None:
    # A pod with a dangling name stays in CreateContainerConfigError or Pending, silently.
    kinds = ("ConfigMap", "PersistentVolumeClaim", "ServiceAccount")
    names = {kind: set(of_kind(objects, kind)) for kind in kinds}
    names["Secret"] = set(documented_secrets())
    classes = {name for _, name in of_kind(objects, "PriorityClass")}
    names["ConfigMap"] |= set(of_kind(jobs(), "ConfigMap"))
    for pod in pods(objects + jobs()):
        for kind, name in references(pod):
            assert (pod.namespace, name) in names[kind], f"{pod.name}: {kind} {name}"
        assert pod.spec.get("priorityClassName") in {None, *classes}, pod.name


def references(pod: Pod) -> Iterator[tuple[str, str]]:
    yield "ServiceAccount", pod.spec.get("serviceAccountName", "default")
    for volume in pod.spec.get("volumes", []):
        if "configMap" in volume:
            yield "ConfigMap", volume["configMap"]["name"]
        if "persistentVolumeClaim" in volume:
            yield "PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]
    for container in pod.containers:
        for source in container.get("envFrom", []):
            for field, kind in (("configMapRef", "ConfigMap"), ("secretRef", "Secret")):
                if field in source:
                    yield kind, source[field]["name"]
        for variable in container.get("env", []):
            if "secretKeyRef" in variable.get("valueFrom", {}):
                yield "Secret", variable["valueFrom"]["secretKeyRef"]["name"]


def documented_secrets() -> dict[tuple[str, str], set[str]]:
    """Returns the keys of each secret in the README's table, by namespace and name."""
    readme = (K8S / "README.md").read_text()
    rows = re.findall(r"^\| `([\w-]+)` \| `(florence[\w-]*)` \| ([^|]+) \|", readme, re.MULTILINE)
    return {(namespace, name): set(keys.split(", ")) for name, namespace, keys in rows}


def test_secrets_are_documented_but_never_contained(objects: list[Manifest]) -> None:
    documented = documented_secrets()
    assert of_kind(objects, "Secret") == {}
    for pod in pods(objects):
        for container in pod.containers:
            for variable in container.get("env", []):
                assert not (SECRET.search(variable["name"]) and variable.get("value")), pod.name
                if "secretKeyRef" in variable.get("valueFrom", {}):
                    reference = variable["valueFrom"]["secretKeyRef"]
                    assert reference["key"] in documented[pod.namespace, reference["name"]]
    for (_, name), config_map in of_kind(objects, "ConfigMap").items():
        assert not [key for key in config_map["data"] if SECRET.search(key)], name
        for value in config_map["data"].values():
            assert not re.search(r"://[^/\s]*:[^/\s]*@", value), f"{name} holds a password"
    for (namespace, _), ingress in of_kind(objects, "Ingress").items():
        for tls in ingress["spec"]["tls"]:
            assert (namespace, tls["secretName"]) in documented


def test_selectors_and_ports_meet_a_pod(objects: list[Manifest]) -> None:
    # A selector with a typo selects nothing: a service without endpoints, a policy without effect.
    found = [*pods(objects), Pod("a training pod", "florence", TRAINING_LABELS, {"containers": []})]
    for kind in ("Service", "NetworkPolicy", "PodDisruptionBudget", "PodMonitor"):
        field = "podSelector" if kind == "NetworkPolicy" else "selector"
        for (namespace, name), document in of_kind(objects, kind).items():
            selector = document["spec"][field]
            selector = {"matchLabels": selector} if kind == "Service" else selector
            hits = [p for p in found if p.namespace == namespace and matches(selector, p.labels)]
            assert hits, f"{kind} {name} selects no pod"
            if kind == "Service":
                offered = {port["name"] for c in hits[0].containers for port in c.get("ports", [])}
                assert {port["targetPort"] for port in document["spec"]["ports"]} <= offered, name


def test_traffic_is_denied_by_default_and_names_resolve(objects: list[Manifest]) -> None:
    policies = of_kind(objects, "NetworkPolicy")
    for namespace in ("florence", "florence-platform"):
        deny = policies[namespace, "default-deny"]["spec"]
        assert deny == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
        dns = policies[namespace, "dns"]["spec"]
        assert dns["podSelector"] == {}
        ports = {(port["protocol"], port["port"]) for port in dns["egress"][0]["ports"]}
        assert ports == {("UDP", 53), ("TCP", 53)}
    for (_, name), policy in policies.items():
        # A rule without peers allows everybody, and reads like one that allows nobody.
        for direction, peers in (("ingress", "from"), ("egress", "to")):
            assert all(rule.get(peers) for rule in policy["spec"].get(direction, [])), name


def test_mlflow_reaches_its_database_and_jobs_reach_mlflow(objects: list[Manifest]) -> None:
    policies = of_kind(objects, "NetworkPolicy")
    database = policies["florence-platform", "database"]["spec"]
    for name in ("mlflow", "mlflow-backup"):
        assert matches(database["podSelector"], {"app.kubernetes.io/name": name})
    (rule,) = policies["florence", "mlflow"]["spec"]["egress"]
    (server,) = (pod for pod in pods(objects) if pod.name == "Deployment/mlflow")
    assert matches(rule["to"][0]["podSelector"], server.labels)
    assert rule["ports"][0]["port"] == server.spec["containers"][0]["ports"][0]["containerPort"]
    # The service's own variables would set MLFLOW_PORT, which MLflow reads as a number.
    assert server.spec["enableServiceLinks"] is False


def test_mlflow_answers_to_the_names_jobs_use_and_to_no_wildcard(objects: list[Manifest]) -> None:
    (settings,) = (
        document["data"]
        for (_, name), document in of_kind(objects, "ConfigMap").items()
        if name.startswith("mlflow-server-")
    )
    hosts = settings["MLFLOW_SERVER_ALLOWED_HOSTS"].split(",")
    assert "mlflow.florence-platform.svc:5000" in hosts
    assert not [host for host in hosts if "*" in host]
    assert settings["MLFLOW_HOST"] == "0.0.0.0"
    assert settings["MLFLOW_PORT"] == "5000"  # from mlruns_config/, as is everything not overridden
    ingresses = of_kind(objects, "Ingress").values()
    assert {rule["host"] for one in ingresses for rule in one["spec"]["rules"]} <= set(hosts)
    local = (ROOT / "mlruns_config/server.env").read_text()
    assert set(re.findall(r"^(\w+)=", local, re.MULTILINE)) <= settings.keys()


def test_roles_hold_no_wildcard_and_training_pods_hold_no_role(objects: list[Manifest]) -> None:
    assert of_kind(objects, "ClusterRole") == of_kind(objects, "ClusterRoleBinding") == {}
    for (_, name), role in of_kind(objects, "Role").items():
        for rule in role["rules"]:
            assert "*" not in rule["apiGroups"] + rule["resources"] + rule["verbs"], name
            # Each of these is a way to more: to secrets, other accounts or a shell in a pod.
            forbidden = {"secrets", "pods/exec", "serviceaccounts", "roles", "rolebindings"}
            assert not forbidden & set(rule["resources"]), name
            if "pods" in rule["resources"]:
                assert set(rule["verbs"]) <= {"get", "list", "watch"}, name
    for binding in of_kind(objects, "RoleBinding").values():
        assert binding["metadata"]["namespace"] == "florence"
        accounts = {s["name"] for s in binding["subjects"] if s["kind"] == "ServiceAccount"}
        assert accounts == {"florence-submitter"}
    for (_, name), account in of_kind(objects, "ServiceAccount").items():
        assert account["automountServiceAccountToken"] is False, name


def test_queues_cover_what_jobs_request() -> None:
    # Kueue never admits a job that requests a resource its queue does not list.
    objects = build("overlays/prod")
    flavors = {name for _, name in of_kind(objects, "ResourceFlavor")}
    topologies = {name for _, name in of_kind(objects, "Topology")}
    queues = of_kind(objects, "ClusterQueue")
    for (_, name), queue in queues.items():
        (group,) = queue["spec"]["resourceGroups"]
        for flavor in group["flavors"]:
            assert flavor["name"] in flavors
            listed = [resource["name"] for resource in flavor["resources"]]
            assert listed == group["coveredResources"], name  # the webhook wants the same order
        requested = {r for pod in pods(jobs()) for c in pod.containers for r in requests(c)}
        assert requested | {"rdma/ib"} <= set(group["coveredResources"]), name
    for flavor in of_kind(objects, "ResourceFlavor").values():
        assert flavor["spec"].get("topologyName") in {None, *topologies}
    local = of_kind(objects, "LocalQueue")
    for queue in local.values():
        assert ("", queue["spec"]["clusterQueue"]) in queues
    named = {one["metadata"].get("labels", {}).get("kueue.x-k8s.io/queue-name") for one in jobs()}
    assert named - {None} <= {name for _, name in local}


def requests(container: Manifest) -> set[str]:
    resources = container.get("resources", {})
    return set(resources.get("requests", {})) | set(resources.get("limits", {}))


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool, of Prometheus")
def test_alerts_fire_when_they_should(tmp_path: Path) -> None:
    (rule,) = of_kind(build("everything"), "PrometheusRule").values()
    (tmp_path / "alerts.yaml").write_text(yaml.safe_dump(rule["spec"]))
    shutil.copy(K8S / "components/monitoring/alerts_test.yaml", tmp_path)
    run("promtool", "test", "rules", "alerts_test.yaml", folder=tmp_path)
