"""The table of kinds the server knows; every kind is served by the same code from its row here."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tests.apiserver.errors import Object


@dataclass(frozen=True)
class Resource:
    """One kind: where it is served and which rules hold for its objects."""

    kind: str
    plural: str
    group: str = ""
    version: str = "v1"
    namespaced: bool = True
    short: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    status: bool = False
    """Whether status is a subresource: written through `/status` alone."""
    generation: bool = False
    """Whether metadata.generation counts the changes of the spec."""
    fields: tuple[str, ...] = ()
    """What field selectors may name besides metadata.name and metadata.namespace."""
    model: str = ""
    """The class of the Python clients that holds the schema; empty: anything is accepted."""
    custom: bool = False
    """Whether a CustomResourceDefinition stands behind it: no strategic merge patch."""

    @property
    def api_version(self) -> str:
        """`v1`, or group and version."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def qualified(self) -> str:
        """The name error messages use: the plural, with its group if there is one."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def prefix(self) -> str:
        """The path its group and version are served under."""
        return f"/apis/{self.api_version}" if self.group else f"/api/{self.version}"


def _core(kind: str, plural: str, *short: str, model: str = "") -> Resource:
    return Resource(kind, plural, short=short, model=model or f"V1{kind}")


def _grouped(group: str, kind: str, plural: str, *short: str) -> Resource:
    return Resource(kind, plural, group=group, short=short, model=f"V1{kind}")


def _workload(group: str, kind: str, plural: str, *short: str) -> Resource:
    resource = _grouped(group, kind, plural, *short)
    return replace(resource, status=True, generation=True, categories=("all",))


def _custom(group: str, kind: str, plural: str, *short: str, version: str = "v1") -> Resource:
    return Resource(
        kind, plural, group=group, version=version, short=short, custom=True, generation=True
    )


_EVENT_FIELDS = (
    *(f"involvedObject.{field}" for field in ("kind", "name", "namespace", "uid", "fieldPath")),
    *("involvedObject.apiVersion", "involvedObject.resourceVersion"),
    *("reason", "reportingComponent", "type"),
)
_POD_FIELDS = (
    *("spec.nodeName", "spec.restartPolicy", "spec.schedulerName", "spec.serviceAccountName"),
    *("status.phase", "status.podIP", "status.nominatedNodeName"),
)
_KUEUE = "kueue.x-k8s.io"
_RBAC = "rbac.authorization.k8s.io"
_MONITORING = "monitoring.coreos.com"

RESOURCES: tuple[Resource, ...] = (
    replace(_core("Namespace", "namespaces", "ns"), namespaced=False, status=True),
    replace(_core("Node", "nodes", "no"), namespaced=False, status=True),
    replace(_core("Pod", "pods", "po"), status=True, fields=_POD_FIELDS, categories=("all",)),
    replace(_core("Service", "services", "svc"), status=True, categories=("all",)),
    replace(_core("Event", "events", "ev", model="CoreV1Event"), fields=_EVENT_FIELDS),
    replace(_core("Secret", "secrets"), fields=("type",)),
    _core("ConfigMap", "configmaps", "cm"),
    _core("ServiceAccount", "serviceaccounts", "sa"),
    _core("LimitRange", "limitranges", "limits"),
    replace(_core("ResourceQuota", "resourcequotas", "quota"), status=True),
    replace(_core("PersistentVolumeClaim", "persistentvolumeclaims", "pvc"), status=True),
    _workload("apps", "Deployment", "deployments", "deploy"),
    _workload("apps", "StatefulSet", "statefulsets", "sts"),
    _workload("apps", "DaemonSet", "daemonsets", "ds"),
    _workload("batch", "Job", "jobs"),
    _workload("batch", "CronJob", "cronjobs", "cj"),
    _grouped("networking.k8s.io", "NetworkPolicy", "networkpolicies", "netpol"),
    _grouped("networking.k8s.io", "Ingress", "ingresses", "ing"),
    _grouped("policy", "PodDisruptionBudget", "poddisruptionbudgets", "pdb"),
    replace(
        _grouped("scheduling.k8s.io", "PriorityClass", "priorityclasses", "pc"), namespaced=False
    ),
    replace(_grouped("storage.k8s.io", "StorageClass", "storageclasses", "sc"), namespaced=False),
    _grouped(_RBAC, "Role", "roles"),
    _grouped(_RBAC, "RoleBinding", "rolebindings"),
    replace(_grouped(_RBAC, "ClusterRole", "clusterroles"), namespaced=False),
    replace(_grouped(_RBAC, "ClusterRoleBinding", "clusterrolebindings"), namespaced=False),
    replace(
        _grouped("apiextensions.k8s.io", "CustomResourceDefinition", "customresourcedefinitions"),
        namespaced=False,
        short=("crd", "crds"),
    ),
    replace(
        _custom("kubeflow.org", "PyTorchJob", "pytorchjobs"),
        status=True,
        model="KubeflowOrgV1PyTorchJob",
        categories=("all",),
    ),
    replace(_custom(_KUEUE, "LocalQueue", "localqueues", "queue", version="v1beta1"), status=True),
    replace(
        _custom(_KUEUE, "ClusterQueue", "clusterqueues", "cq", version="v1beta1"),
        namespaced=False,
        status=True,
    ),
    replace(
        _custom(_KUEUE, "ResourceFlavor", "resourceflavors", "rf", version="v1beta1"),
        namespaced=False,
    ),
    replace(
        _custom(_KUEUE, "WorkloadPriorityClass", "workloadpriorityclasses", version="v1beta1"),
        namespaced=False,
    ),
    replace(_custom(_KUEUE, "Workload", "workloads", "wl", version="v1beta1"), status=True),
    _custom(_MONITORING, "PodMonitor", "podmonitors", "pmon"),
    _custom(_MONITORING, "ServiceMonitor", "servicemonitors", "smon"),
    _custom(_MONITORING, "PrometheusRule", "prometheusrules", "promrule"),
)

BY_KIND = {resource.kind: resource for resource in RESOURCES}
"""Every row by its kind; no kind appears in two groups."""


def crd(resource: Resource) -> Object:
    """Returns the CustomResourceDefinition a cluster would hold for a custom resource."""
    version: Object = {
        "name": resource.version,
        "served": True,
        "storage": True,
        "schema": {
            "openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
        },
    }
    if resource.status:
        version["subresources"] = {"status": {}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": resource.qualified},
        "spec": {
            "group": resource.group,
            "scope": "Namespaced" if resource.namespaced else "Cluster",
            "names": {
                "kind": resource.kind,
                "plural": resource.plural,
                "singular": resource.kind.lower(),
                "shortNames": list(resource.short),
            },
            "versions": [version],
        },
        "status": {
            "acceptedNames": {"kind": resource.kind, "plural": resource.plural},
            "conditions": [{"type": "Established", "status": "True"}],
            "storedVersions": [resource.version],
        },
    }
