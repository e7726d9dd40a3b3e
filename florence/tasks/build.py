"""Constructs the task a run names."""

from __future__ import annotations

from pathlib import Path

import torch

from florence.config.run import TrainRun
from florence.data.schema import TOKENIZER_FILE
from florence.data.tokenizer import load_tokenizer, tokenizer_path
from florence.models.build import build_model
from florence.models.weights import load_model
from florence.tasks.unicl import UniCLTask


def build_task(run: TrainRun) -> UniCLTask:
    """Returns the run's task with weights drawn from its seed, the same on every rank."""
    torch.manual_seed(run.seed)
    model = build_model(
        run.model,
        init_logit_scale=run.task.init_logit_scale,
        max_logit_scale=run.task.max_logit_scale,
        activation_checkpointing=run.parallel.activation_checkpointing,
    )
    tokenizer = load_tokenizer(tokenizer_path(run.data), text=run.model.text)
    return UniCLTask(model, tokenizer=tokenizer, chunk_size=run.parallel.chunk_size)


def load_task(folder: Path) -> UniCLTask:
    """Returns the task whose weights, configuration and tokenizer lie in a folder."""
    model = load_model(folder)
    tokenizer = load_tokenizer(folder / TOKENIZER_FILE, text=model.config.text)
    return UniCLTask(model, tokenizer=tokenizer)
