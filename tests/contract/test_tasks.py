"""Every task of the union passes the same battery; a new one joins by being in the union."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from florence.config.run import TrainRun
from florence.config.task import AnyTask
from florence.data.loader import build_eval_loader
from florence.data.streams import EvalDataset, open_eval_dataset
from florence.tasks.base import Batch, Task
from florence.tasks.build import build_task, load_task
from florence.tracking.pyfunc import import_predictor

CONFIGS = get_args(AnyTask) or (AnyTask,)
NAMES = [config.model_fields["name"].default for config in CONFIGS]


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def build(
    name: str, digits: Path, *, model: dict[str, Any] | None = None, **parallel: Any
) -> Task[Any]:
    run = TrainRun.model_validate(
        {
            "name": "contract",
            "task": {"name": name},
            "model": {"preset": "pico"} | (model or {}),
            "data": {"train": str(digits / "train")},
            "optim": {"warmup_steps": 0},
            "parallel": {"precision": "fp32"} | parallel,
            "training": {"total_steps": 1, "global_batch_size": 8},
        }
    )
    return build_task(run)


@pytest.fixture(scope="module")
def dataset(digits: Path) -> EvalDataset:
    return open_eval_dataset(str(digits / "train"), image_size=32)


def batch_for(task: Task[Any], dataset: EvalDataset, size: int = 8) -> Batch:
    loader = build_eval_loader(
        dataset, batch_size=size, rank=0, world_size=1, tokenizer=task.tokenizer
    )
    return next(iter(loader))


def gradients(task: Task[Any], batch: Batch) -> dict[str, torch.Tensor | None]:
    task.train()
    task.loss(task(batch), batch)["loss"].backward()
    return {name: parameter.grad for name, parameter in task.named_parameters()}


def test_losses_are_finite_scalars(name: str, digits: Path, dataset: EvalDataset) -> None:
    task = build(name, digits)
    batch = batch_for(task, dataset)
    losses = task.loss(task(batch), batch)
    assert "loss" in losses
    for loss in losses.values():
        assert loss.numel() == 1
        assert loss.isfinite()


def test_backward_reaches_every_parameter(name: str, digits: Path, dataset: EvalDataset) -> None:
    task = build(name, digits)
    for parameter, gradient in gradients(task, batch_for(task, dataset)).items():
        assert gradient is not None, parameter
        assert gradient.isfinite().all(), parameter
        assert gradient.any(), parameter


@pytest.mark.parametrize("chunk_size", [1, 3, 8, 100])
def test_chunks_change_no_gradient(
    name: str, digits: Path, dataset: EvalDataset, chunk_size: int
) -> None:
    plain = build(name, digits)
    chunked = build(name, digits, chunk_size=chunk_size, activation_checkpointing=True)
    batch = batch_for(plain, dataset)
    expected, found = gradients(plain, batch), gradients(chunked, batch)
    for parameter, gradient in expected.items():
        difference = (found[parameter] - gradient).norm() / gradient.norm()
        assert difference < 1e-4, parameter  # fp32 sums in another order


def test_predictions_have_a_row_per_sample(name: str, digits: Path, dataset: EvalDataset) -> None:
    task = build(name, digits).eval()
    batch = batch_for(task, dataset)
    for rows in task.predict(task(batch), batch).values():
        assert len(rows) == 8


def test_a_saved_model_computes_the_same(
    name: str, digits: Path, dataset: EvalDataset, tmp_path: Path
) -> None:
    task = build(name, digits).eval()
    task.save(task.state_dict(), tmp_path / "model")
    loaded = load_task(tmp_path / "model").eval()
    batch = batch_for(task, dataset)
    with torch.no_grad():
        expected, found = task(batch), loaded(batch)
    for one, other in zip(expected, found, strict=True):
        assert torch.equal(one, other)


def test_what_is_served_answers_for_its_own_examples(
    name: str, digits: Path, dataset: EvalDataset, tmp_path: Path
) -> None:
    task = build(name, digits)
    task.save(task.state_dict(), tmp_path / "model")
    servable = task.servable(tmp_path / "model", dataset=dataset)
    predictor = import_predictor(servable.predictor).load(servable.model_dir)
    answer = predictor.predict(servable.images, servable.params)
    assert len(answer) == len(servable.images)


def test_training_starts_from_a_model_of_another_resolution(
    name: str, digits: Path, tmp_path: Path
) -> None:
    small = build(name, digits)
    small.save(small.state_dict(), tmp_path / "model")
    large = build(name, digits, model={"image": {"image_size": 48, "window_size": 6}})
    large.load(tmp_path / "model")
    before, after = small.state_dict(), large.state_dict()
    resized = {key for key in before if before[key].shape != after[key].shape}
    assert resized
    assert all(key.endswith("relative_position_bias_table") for key in resized)
    assert all(torch.equal(before[key], after[key]) for key in before.keys() - resized)
