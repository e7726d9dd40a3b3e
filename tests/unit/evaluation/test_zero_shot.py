"""Top-k accuracy, against scikit-learn and by hand."""

from __future__ import annotations

import pytest
import torch
from sklearn.metrics import top_k_accuracy_score

from florence.evaluation.zero_shot import topk_accuracy


def test_agrees_with_scikit_learn() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(500, 12, generator=generator)
    truth = torch.randint(12, (500,), generator=generator)
    found = topk_accuracy(scores, truth)
    for k in (1, 5):
        expected = top_k_accuracy_score(truth, scores, k=k, labels=range(12))
        assert found[f"top{k}"] == pytest.approx(expected, abs=1e-12)


def test_fewer_than_five_classes() -> None:
    scores = torch.tensor([[3.0, 2.0, 1.0], [1.0, 2.0, 3.0]])
    assert topk_accuracy(scores, torch.tensor([0, 0])) == {"top1": 0.5, "top5": 1.0}
