"""The kinds of objects the Kubernetes backend asks for, as the API's paths name them."""

from __future__ import annotations

from typing import NamedTuple


class Resource(NamedTuple):
    """A kind of object as the API's paths name it."""

    plural: str
    group: str = ""
    version: str = "v1"
    namespaced: bool = True

    def path(self, namespace: str, name: str = "", subresource: str = "") -> str:
        """Returns the path of the collection, of one object or of its subresource."""
        prefix = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        where = f"/namespaces/{namespace}" if self.namespaced else ""
        parts = (self.plural, name, subresource)
        return prefix + where + "".join(f"/{part}" for part in parts if part)

    @property
    def qualified(self) -> str:
        """The name `kubectl` takes: the plural, with its group if there is one."""
        return f"{self.plural}.{self.group}" if self.group else self.plural


JOBS = Resource("pytorchjobs", "kubeflow.org")
PODS = Resource("pods")
EVENTS = Resource("events")
CONFIG_MAPS = Resource("configmaps")
CLAIMS = Resource("persistentvolumeclaims")
WORKLOADS = Resource("workloads", "kueue.x-k8s.io", "v1beta1")
QUEUES = Resource("localqueues", "kueue.x-k8s.io", "v1beta1")
REVIEWS = Resource("selfsubjectaccessreviews", "authorization.k8s.io", namespaced=False)
