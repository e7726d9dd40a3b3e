"""Which parameters weight decay leaves alone."""

from __future__ import annotations

from florence.config.model import ModelConfig
from florence.config.optim import OptimConfig
from florence.models.build import build_model
from florence.training.optim import build_optimizer, split_by_decay


def test_only_matrices_and_kernels_decay() -> None:
    model = build_model(ModelConfig(preset="pico"))
    decayed, plain = split_by_decay(model)
    assert decayed.keys() | plain.keys() == dict(model.named_parameters()).keys()
    assert not decayed.keys() & plain.keys()
    assert all(parameter.ndim >= 2 for parameter in decayed.values())
    for name in (
        "logit_scale",
        "token_embedding",
        "position",
        "norm",
        "bias",
    ):
        assert any(name in plain_name for plain_name in plain), name
        assert not any(name in decayed_name for decayed_name in decayed), name


def test_every_parameter_is_in_one_group_of_the_optimizer() -> None:
    model = build_model(ModelConfig(preset="pico"))
    optimizer = build_optimizer(model, OptimConfig(weight_decay=0.3))
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.3, 0.0]
    grouped = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in model.parameters())
