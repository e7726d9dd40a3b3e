"""Derives DeepSpeed's configuration from ours; users never write a ds_config.json."""

from __future__ import annotations

from typing import Any

from florence.config.run import TrainRun


def deepspeed_config(run: TrainRun) -> dict[str, Any]:
    """Returns the DeepSpeed dict of a run: batch, precision, clipping and ZeRO stage."""
    return {
        "train_batch_size": run.training.global_batch_size,
        "train_micro_batch_size_per_gpu": run.micro_batch_size,
        "gradient_accumulation_steps": 1,  # the gradient cache takes its place
        "gradient_clipping": run.optim.max_grad_norm,
        "bf16": {"enabled": run.parallel.precision == "bf16"},
        "zero_optimization": {
            "stage": run.parallel.zero_stage,
            "overlap_comm": run.cluster.resources.gpu > 0,
            "contiguous_gradients": True,
            # The stored weights are the trained precision's, gathered over the ranks (stage 3).
            "stage3_gather_16bit_weights_on_model_save": True,
        },
        "steps_per_print": 2**31,  # progress is reported by our own callbacks
        "wall_clock_breakdown": False,
    }
