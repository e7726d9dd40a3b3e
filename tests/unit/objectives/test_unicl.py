"""The tiled UniCL loss against equations 1-3 of the paper, written out with loops."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from florence.objectives.unicl import unicl_loss

INT64 = torch.iinfo(torch.int64)
LABELS = {
    "duplicates": torch.tensor([3, 3, 1, 3, 8, 1, 2, 2, 9, 3, 7]),
    "all equal": torch.full((11,), 5),
    "all unique": torch.arange(11),
    "one sample": torch.tensor([4]),
    # Differ in the last bit alone, which float64 cannot tell apart.
    "64-bit keys": torch.tensor([INT64.min, INT64.max, INT64.max - 1, INT64.min + 1, INT64.max]),
}


def equation_1(images: Tensor, texts: Tensor, labels: Tensor, scale: Tensor) -> Tensor:
    """The sum L_i2t + L_t2i exactly as printed."""
    keys = labels.tolist()
    batch = range(len(keys))
    z = [[(scale * (images[i] @ texts[j])).squeeze() for j in batch] for i in batch]
    loss = torch.zeros((), dtype=images.dtype)
    for i in batch:
        positives = [k for k in batch if keys[k] == keys[i]]
        row = torch.logsumexp(torch.stack([z[i][j] for j in batch]), 0)
        column = torch.logsumexp(torch.stack([z[j][i] for j in batch]), 0)
        for k in positives:
            loss = loss - (z[i][k] - row) / len(positives)
            loss = loss - (z[k][i] - column) / len(positives)
    return loss


def features(size: int, *, dim: int = 6, dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(size)
    images, texts = torch.randn(2, size, dim, generator=generator, dtype=torch.float64)
    return tuple(F.normalize(x, dim=1).to(dtype).requires_grad_() for x in (images, texts))


@pytest.mark.parametrize("tile", [1, 4, 1024])
@pytest.mark.parametrize("scale", [0.5, 100.0])
@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS.keys())
def test_equals_the_printed_equations(labels: Tensor, scale: float, tile: int) -> None:
    inputs = *features(len(labels)), torch.tensor([scale], dtype=torch.float64, requires_grad=True)
    images, texts, logit_scale = inputs

    expected = equation_1(images, texts, labels, logit_scale) / (2 * len(labels))
    loss = unicl_loss(images, texts, labels, logit_scale, tile=tile)

    assert loss.shape == ()
    torch.testing.assert_close(loss, expected, rtol=0, atol=1e-10)
    gradients = torch.autograd.grad(3 * loss, inputs), torch.autograd.grad(3 * expected, inputs)
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)


def test_gradients_equal_finite_differences() -> None:
    labels = LABELS["duplicates"][:5]
    scale = torch.tensor(7.0, dtype=torch.float64, requires_grad=True)  # 0-dim works too
    assert torch.autograd.gradcheck(
        lambda u, v, s: unicl_loss(u, v, labels, s, tile=2), (*features(5), scale)
    )


def test_unique_labels_give_the_clip_loss() -> None:
    images, texts = features(300, dtype=torch.float32)
    scale = torch.tensor([100.0])
    logits = scale * images @ texts.T
    target = torch.arange(300)
    expected = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
    loss = unicl_loss(images, texts, target, scale, tile=128)
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("autocast", [False, True])
def test_bfloat16_features_are_summed_in_float32(autocast: bool) -> None:
    images, texts = features(64, dim=32, dtype=torch.bfloat16)
    wide = [x.detach().float().requires_grad_() for x in (images, texts)]
    labels, scale = torch.arange(64) // 3, torch.tensor([100.0], requires_grad=True)
    expected = unicl_loss(*wide, labels, scale)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        loss = unicl_loss(images, texts, labels, scale)

    assert loss.dtype == torch.float32
    assert loss.item() == expected.item()
    loss.backward()
    expected.backward()
    assert images.grad is not None
    assert images.grad.dtype == torch.bfloat16
    assert torch.equal(images.grad, wide[0].grad.bfloat16())


class LargestTensor(TorchDispatchMode):
    """Notes the most elements any operation returned, and counts matrix products."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0
        self.products = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, Tensor):
                self.elements = max(self.elements, tensor.numel())
        self.products += func.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm_)
        return result


def test_no_tensor_is_larger_than_one_tile_of_logits() -> None:
    batch, dim, tile = 2048, 16, 256
    images, texts = features(batch, dim=dim, dtype=torch.float32)
    scale = torch.tensor([50.0], requires_grad=True)
    with LargestTensor() as seen:
        unicl_loss(images, texts, torch.arange(batch) // 2, scale, tile=tile).backward()
    assert seen.elements == batch * tile
    # Both passes were watched: one product per tile forward, three backward.
    assert seen.products == 4 * batch // tile
