"""Reads training batches on one rank and writes a digest of every sample, batch by batch.

    torchrun ... read_batches.py JOB.json

The job says what to read (`data`, `global_batch_size`), how many batches, where to write, and with
`state` where to start. With `save_at` the position after that batch is written to `state`'s file.
"""

from __future__ import annotations

import hashlib
import json
import sys
from itertools import islice
from pathlib import Path

import torch.distributed as dist

from florence.config.data import DataConfig
from florence.config.model import ModelConfig
from florence.data.collate import Batch
from florence.data.loader import TrainLoader, build_train_loader
from florence.data.tokenizer import load_tokenizer, tokenizer_path


def open_loader(job: dict, *, world_size: int) -> TrainLoader:
    cfg = DataConfig.model_validate(job["data"])
    return build_train_loader(
        cfg,
        tokenizer=load_tokenizer(tokenizer_path(cfg), text=ModelConfig(preset="pico").text),
        image_size=32,
        micro_batch_size=job["global_batch_size"] // world_size,
        seed=3,
    )


def digest(batch: Batch) -> dict[int, str]:
    """Maps the id of each sample to a digest of everything else of it."""
    rows = zip(*(batch[name] for name in sorted(batch) if name != "sample_id"), strict=True)
    digests = (hashlib.sha256(b"".join(t.numpy().tobytes() for t in row)) for row in rows)
    ids = batch["sample_id"].tolist()
    return dict(zip(ids, (d.hexdigest() for d in digests), strict=True))


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    loader = open_loader(job, world_size=dist.get_world_size())
    state = Path(job["state"])
    if state.exists():
        loader.load_state_dict(json.loads(state.read_text()))
    batches = iter(loader)
    with Path(job["out"]).with_suffix(f".{rank}").open("w") as out:
        for number, batch in enumerate(islice(batches, job["batches"]), start=1):
            out.write(json.dumps(digest(batch)) + "\n")
            out.flush()
            if rank == 0 and number == job["save_at"]:
                state.write_text(json.dumps(loader.state_dict()))
    del batches
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
