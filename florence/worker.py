"""One rank of a job: reads run.yaml, joins the process group and does what the run's kind says.

python -m florence.worker RUN_YAML        (under torchrun; see florence.launcher)
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.distributed.elastic.multiprocessing.errors import get_error_handler

from florence.config.resolve import load_run
from florence.config.run import CurateRun, EvaluateRun, TrainRun
from florence.data.curate import curate
from florence.data.loader import build_train_loader
from florence.data.schema import data_fingerprint
from florence.data.streams import open_eval_dataset
from florence.distributed.collectives import broadcast_object
from florence.distributed.engine import build_engine, full_state_dict
from florence.distributed.setup import RankInfo, init_distributed, lost_a_rank, shutdown
from florence.evaluation.build import evaluate_all
from florence.tasks.base import Task
from florence.tasks.build import build_task, load_task
from florence.tracking.registry import register_model, resolve_model
from florence.tracking.run import TrackedRun, open_run
from florence.training.callbacks.checkpoint import CheckpointCallback
from florence.training.callbacks.evaluate import EvaluateCallback
from florence.training.callbacks.progress import ProgressCallback
from florence.training.callbacks.throughput import ThroughputCallback
from florence.training.callbacks.tracking import TrackingCallback
from florence.training.optim import build_optimizer
from florence.training.trainer import Trainer
from florence.util.errors import EXIT_BUG, FlorenceError, InfrastructureError
from florence.util.logs import setup_logging

log = logging.getLogger(__name__)

Summary = dict[str, Any]


def main() -> int:
    """Runs the job and returns the exit code; the agent is told of the exception, if any."""
    (path,) = sys.argv[1:]
    handler = get_error_handler()
    handler.initialize()
    try:
        run = load_run(path)
        ranks = init_distributed()
        setup_logging(is_main=ranks.is_main)
        summary = execute(run, ranks, run_yaml=Path(path).read_text(encoding="utf-8"))
        if ranks.is_main:
            write_summary(run.folder, summary)
        shutdown()
    except FlorenceError as error:
        handler.record_exception(error)
        log.error("error: %s", error)
        return error.exit_code
    except Exception as error:
        if lost_a_rank(error):
            error = InfrastructureError(f"another rank is gone: {error}")
        handler.record_exception(error)
        log.exception("failed")
        return error.exit_code if isinstance(error, InfrastructureError) else EXIT_BUG
    return 0


def execute(run: TrainRun | EvaluateRun | CurateRun, ranks: RankInfo, *, run_yaml: str) -> Summary:
    """Does a run's work on this rank; returns the figures of its summary."""
    match run:
        case CurateRun():
            return curate(run) if ranks.is_main else {}
        case EvaluateRun():
            return evaluate(run, ranks, run_yaml=run_yaml)
        case TrainRun():
            return train(run, ranks, run_yaml=run_yaml)


def train(run: TrainRun, ranks: RankInfo, *, run_yaml: str) -> Summary:
    """Trains a task, evaluates it and registers the model."""
    task = build_task(run)
    if run.init_from:
        task.load(fetch_model(run.init_from, run, ranks))
    task.to(ranks.device)
    loader = build_train_loader(
        run.data,
        tokenizer=task.tokenizer,
        image_size=task.image_size,
        micro_batch_size=run.micro_batch_size,
        seed=run.seed,
    )
    engine = build_engine(task, optimizer=build_optimizer(task, run.optim), run=run)
    data = {"train": loader.fingerprint} | evaluation_data(run)
    with tracking(run, ranks, run_yaml=run_yaml, data=data) as tracked:
        evaluation = EvaluateCallback(tracked=tracked)
        callbacks = [
            CheckpointCallback(run.folder / "checkpoints", tracked=tracked),
            ThroughputCallback(),
            *([TrackingCallback(tracked), ProgressCallback()] if tracked else []),
            evaluation,
        ]
        trainer = Trainer(engine, loader=loader, run=run, ranks=ranks, callbacks=callbacks)
        trainer.fit()
        summary = trainer.state.state_dict() | evaluation.figures
        weights = full_state_dict(engine)  # a collective: every rank takes part
        if tracked:
            summary |= save_and_register(run, task, weights, tracked)
    return summary


def evaluate(run: EvaluateRun, ranks: RankInfo, *, run_yaml: str) -> Summary:
    """Evaluates a registered model."""
    with tracking(run, ranks, run_yaml=run_yaml, data=evaluation_data(run)) as tracked:
        task = load_task(fetch_model(run.model_uri, run, ranks)).to(ranks.device)
        return evaluate_all(task, run.evaluation, ranks=ranks, tracked=tracked, step=0)


def fetch_model(uri: str, run: TrainRun | EvaluateRun, ranks: RankInfo) -> Path:
    """Returns the folder of a registered model, downloaded by rank 0 into the job's folder."""
    folder = None
    if ranks.is_main:
        folder = resolve_model(run.tracking.uri, uri, into=run.folder / "base").path
    return broadcast_object(folder)


@contextmanager
def tracking(
    run: TrainRun | EvaluateRun, ranks: RankInfo, *, run_yaml: str, data: dict[str, str]
) -> Iterator[TrackedRun | None]:
    """Opens the run's MLflow run on rank 0, others get None; `data` maps names to fingerprints."""
    if not ranks.is_main:
        yield None
        return
    with open_run(run, run_yaml=run_yaml, data_fingerprints=data) as tracked:
        yield tracked


def evaluation_data(run: TrainRun | EvaluateRun) -> dict[str, str]:
    """Returns the fingerprint of every data set the run evaluates on."""
    return {cfg.dataset: data_fingerprint(cfg.path) for cfg in run.evaluation}


def save_and_register(
    run: TrainRun, task: Task[Any], weights: dict[str, torch.Tensor], tracked: TrackedRun
) -> Summary:
    """Writes the model folder and, if the run names a registered model, a new version of it."""
    folder = run.folder / "model"
    task.save(weights, folder)
    name = run.tracking.registered_model
    if name is None:
        return {}
    examples = run.evaluation[0].path if run.evaluation else run.data.train
    dataset = open_eval_dataset(examples, image_size=run.model.image.image_size)
    servable = task.servable(folder, dataset=dataset)
    version = register_model(tracked, servable, name=name, step=run.training.total_steps)
    log.info("registered %s version %d as %s", name, version.version, ", ".join(version.aliases))
    return {"model": name, "model_version": version.version, "model_aliases": [*version.aliases]}


def write_summary(folder: Path, summary: Summary) -> None:
    """Writes summary.json, whole or not at all."""
    partial = folder / ".summary.json"
    partial.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    partial.replace(folder / "summary.json")


if __name__ == "__main__":
    sys.exit(main())
