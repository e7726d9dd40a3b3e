"""The runs a job file can describe: everything a worker needs, and nothing it has to look up."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveInt, TypeAdapter, model_validator

from florence.config.base import Section
from florence.config.cluster import ClusterConfig
from florence.config.data import DataConfig
from florence.config.evaluation import AnyEvaluation
from florence.config.model import ModelConfig
from florence.config.optim import OptimConfig
from florence.config.parallel import ParallelConfig
from florence.config.task import AnyTask, UniCLTaskConfig
from florence.config.tracking import TrackingConfig

MODEL_URI = r"^models:/[^/@]+[/@][^/@]+$"


class BaseRun(Section):
    """What every run has: a name, a seed, a place to write to, machines and tracking."""

    name: str = Field(
        pattern=r"^[a-z]([-a-z0-9]*[a-z0-9])?$",
        max_length=36,
        description="kebab-case; the job is named florence-<name>-<6 hex of the fingerprint>",
    )
    seed: NonNegativeInt = 0
    runs_dir: str = Field("runs", description="folder under which jobs keep their state")
    cluster: ClusterConfig = ClusterConfig()
    tracking: TrackingConfig = TrackingConfig()

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of the resolved run: equal exactly when every field is equal."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(canonical.encode()).hexdigest()

    @property
    def job_name(self) -> str:
        """The Kubernetes name of the run's job; the same run always has the same name."""
        return f"florence-{self.name}-{self.fingerprint[:6]}"

    @property
    def folder(self) -> Path:
        """Where the job keeps its checkpoints, model and summary."""
        return Path(self.runs_dir) / self.job_name


class TrainingConfig(Section):
    """The training loop: how long, how large a batch, and what happens how often."""

    total_steps: PositiveInt = Field(description="optimizer steps")
    global_batch_size: PositiveInt = Field(description="samples per step over all ranks")
    checkpoint_every: PositiveInt = Field(1000, description="steps between checkpoints")
    keep_checkpoints: PositiveInt = Field(2, description="newest checkpoints kept")
    evaluate_every: PositiveInt | None = Field(
        None, description="steps between evaluations; null = only at the end"
    )


class TrainRun(BaseRun):
    """Trains a task, evaluates the result and registers it."""

    kind: Literal["train"] = "train"
    task: AnyTask = UniCLTaskConfig()
    init_from: str | None = Field(
        None,
        pattern=MODEL_URI,
        description="registered model whose weights to start from, at any resolution",
    )
    model: ModelConfig = ModelConfig()
    data: DataConfig
    optim: OptimConfig = OptimConfig()
    parallel: ParallelConfig = ParallelConfig()
    training: TrainingConfig
    evaluation: tuple[AnyEvaluation, ...] = ()

    @property
    def micro_batch_size(self) -> int:
        """Samples per rank and step."""
        return self.training.global_batch_size // self.cluster.world_size

    @model_validator(mode="after")
    def _check(self) -> Self:
        ranks = self.cluster.world_size
        if self.training.global_batch_size % ranks:
            raise ValueError(
                f"training.global_batch_size = {self.training.global_batch_size} does not divide "
                f"by the {ranks} ranks of cluster.nodes x cluster.processes_per_node"
            )
        if self.optim.warmup_steps >= self.training.total_steps:
            raise ValueError(
                f"optim.warmup_steps = {self.optim.warmup_steps} must be below "
                f"training.total_steps = {self.training.total_steps}"
            )
        return self


class EvaluateRun(BaseRun):
    """Evaluates a registered model."""

    kind: Literal["evaluate"] = "evaluate"
    model_uri: str = Field(
        pattern=MODEL_URI, description="models:/NAME@ALIAS or models:/NAME/VERSION"
    )
    evaluation: Annotated[tuple[AnyEvaluation, ...], Field(min_length=1)]


class DigitsSource(Section):
    """scikit-learn's 1,797 handwritten digits as captioned images: real data, no download."""

    name: Literal["digits"] = "digits"
    image_size: PositiveInt = Field(32, description="side of the written images, pixels")


class CurateRun(BaseRun):
    """Turns a source into training and validation shards with their tokenizer."""

    kind: Literal["curate"] = "curate"
    source: DigitsSource = DigitsSource()
    output: str = Field(description="folder the shards are written to: <output>/train, /val")
    val_fraction: float = Field(0.2, gt=0, lt=1)
    vocab_size: PositiveInt = Field(512, description="tokens of the tokenizer trained on the texts")


AnyRun = Annotated[TrainRun | EvaluateRun | CurateRun, Field(discriminator="kind")]
RUN_ADAPTER: TypeAdapter[TrainRun | EvaluateRun | CurateRun] = TypeAdapter(AnyRun)
