"""The two-tower model: unit vectors, gradients everywhere, bf16, recomputation, ZeRO's demands."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

from florence.config.model import ModelConfig
from florence.models.build import build_model
from florence.models.florence import FlorenceModel

CFG = ModelConfig.model_validate(
    {
        "embed_dim": 8,
        "image": {
            "image_size": 32,
            "embed_dim": 8,
            "depths": (2, 2),
            "num_heads": (1, 2),
            "window_size": 4,
            "drop_path_rate": 0.3,
        },
        "text": {
            "vocab_size": 20,
            "context_length": 6,
            "width": 16,
            "num_heads": 2,
            "num_layers": 2,
        },
    }
)


def _model(*, activation_checkpointing: bool = False) -> FlorenceModel:
    torch.manual_seed(0)
    return build_model(CFG, activation_checkpointing=activation_checkpointing)


def _batch() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    image = torch.randn(4, 3, 40, 36, generator=generator)
    ids = torch.randint(20, (4, 6), generator=generator)
    return image, ids, (torch.arange(6) < torch.tensor([[6], [5], [3], [6]])).long()


def _loss(model: FlorenceModel) -> Tensor:
    outputs = model(*_batch())
    logits = outputs.logit_scale * outputs.image_features @ outputs.text_features.T
    return torch.nn.functional.cross_entropy(logits, torch.arange(4))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_features_are_fp32_unit_vectors(dtype: torch.dtype) -> None:
    model = _model().to(dtype)
    outputs = model(*_batch())
    for features in (outputs.image_features, outputs.text_features):
        assert features.shape == (4, 8)
        assert features.dtype == torch.float32
        torch.testing.assert_close(features.norm(dim=-1), torch.ones(4))


def test_bf16_is_near_fp32() -> None:
    model = _model().eval()
    image, *text = _batch()
    exact = model.encode_image(image), model.encode_text(*text)
    model.bfloat16()
    rounded = model.encode_image(image), model.encode_text(*text)
    for a, b in zip(exact, rounded, strict=True):
        assert torch.cosine_similarity(a, b).min() > 0.999


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_parameter_receives_a_gradient(dtype: torch.dtype) -> None:
    model = _model().to(dtype)
    _loss(model).backward()
    assert not [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]


def test_activation_checkpointing_gives_bit_identical_gradients() -> None:
    gradients = []
    for recompute in (False, True):
        model = _model(activation_checkpointing=recompute)
        torch.manual_seed(2)
        _loss(model).backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    for name, gradient in gradients[0].items():
        assert torch.equal(gradient, gradients[1][name]), name


def test_activation_checkpointing_nests_in_a_checkpoint_around_the_encoder() -> None:
    gradients = []
    for recompute in (False, True):
        model = _model(activation_checkpointing=recompute)
        image = _batch()[0]
        torch.manual_seed(2)
        features = (
            checkpoint(model.encode_image, image, use_reentrant=False)
            if recompute
            else model.encode_image(image)
        )
        features.square().cumsum(1).sum().backward()
        gradients.append([p.grad for p in model.image_encoder.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


class _OwnersOnly(TorchFunctionMode):
    """Fails when a parameter is computed with outside the forward of the module that owns it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.running: list[nn.Module] = []
        self.owners = {
            id(parameter): module
            for module in model.modules()
            for parameter in module.parameters(recurse=False)
        }
        for module in model.modules():
            module.register_forward_pre_hook(self._enter)
            module.register_forward_hook(self._leave)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        reads_metadata = func.__name__ == "__get__"
        for argument in () if reads_metadata else (*args, *(kwargs or {}).values()):
            owner = self.owners.get(id(argument))
            assert owner is None or owner in self.running, f"{func} on {owner}'s parameter"
        return func(*args, **(kwargs or {}))

    def _enter(self, module: nn.Module, _: Any) -> None:
        self.running.append(module)

    def _leave(self, *_: Any) -> None:
        self.running.pop()


def test_parameters_suit_zero() -> None:
    model = _model()
    assert all(parameter.ndim for parameter in model.parameters())
    with _OwnersOnly(model):
        model(*_batch())
