"""Where a run runs: machines, resources and the image of its pods.

Only what a job has to choose is here. What a site decides, such as node labels, taints and network
interfaces, is said once in k8s/components and reaches the pods through their queue.
"""

from __future__ import annotations

from typing import Self

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from florence.config.base import Section

_QUANTITY = r"^[1-9][0-9]*(Mi|Gi|Ti)$"
_LABEL_KEY = r"^([a-z0-9][-a-z0-9.]*/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$"
_NAME = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"


class ResourcesConfig(Section):
    """Resources of one pod (one node of the job)."""

    cpu: PositiveInt = 1
    memory: str = Field(
        "8Gi", pattern=_QUANTITY, description="of which /dev/shm may take a quarter"
    )
    gpu: NonNegativeInt = 0
    rdma: NonNegativeInt = Field(0, description="InfiniBand or RoCE devices, one per GPU")
    disk: str = Field(
        "10Gi", pattern=_QUANTITY, description="node-local: the shard cache, /tmp and the log"
    )


class ClusterConfig(Section):
    """The pods of a job: `nodes` pods of `processes_per_node` ranks each."""

    nodes: PositiveInt = Field(1, description="pods: one Master and nodes - 1 Workers")
    processes_per_node: PositiveInt = Field(1, description="ranks per pod, one per GPU")
    resources: ResourcesConfig = ResourcesConfig()
    image: str = "florence:0.1.0"
    namespace: str = Field("florence", pattern=_NAME)
    queue: str | None = Field(
        None, pattern=_NAME, description="Kueue's LocalQueue that admits the job; null = none"
    )
    priority: str | None = Field(
        None, pattern=_NAME, description="PriorityClass; null = the cluster's default"
    )
    topology: str | None = Field(
        None,
        pattern=_LABEL_KEY,
        description="node label of the network level the pods should share; needs a queue",
    )
    deadline_hours: PositiveFloat | None = Field(
        None, description="the job fails after this long, restarts included; null = never"
    )

    @property
    def world_size(self) -> int:
        """Number of ranks."""
        return self.nodes * self.processes_per_node

    @model_validator(mode="after")
    def _check(self) -> Self:
        gpus = self.resources.gpu
        if gpus and gpus != self.processes_per_node:
            raise ValueError(
                f"resources.gpu = {gpus} must equal processes_per_node = "
                f"{self.processes_per_node}: every rank drives one GPU"
            )
        if self.topology and not self.queue:
            raise ValueError(f"topology = {self.topology!r} needs a queue: Kueue places the pods")
        return self
