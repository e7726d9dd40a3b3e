"""Where a run runs: machines, resources and the image of its pods."""

from __future__ import annotations

from pydantic import Field, NonNegativeInt, PositiveInt

from florence.config.base import Section


class ResourcesConfig(Section):
    """Resources of one pod (one node of the job)."""

    cpu: PositiveInt = 1
    memory: str = Field("8Gi", pattern=r"^[1-9][0-9]*(Mi|Gi|Ti)$")
    gpu: NonNegativeInt = 0


class ClusterConfig(Section):
    """The pods of a job: `nodes` pods of `processes_per_node` ranks each."""

    nodes: PositiveInt = Field(1, description="pods: one Master and nodes - 1 Workers")
    processes_per_node: PositiveInt = Field(1, description="ranks per pod, one per GPU")
    resources: ResourcesConfig = ResourcesConfig()
    image: str = "florence:0.1.0"
    namespace: str = Field("florence", pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")

    @property
    def world_size(self) -> int:
        """Number of ranks."""
        return self.nodes * self.processes_per_node
