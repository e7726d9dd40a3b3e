"""The published sizes: 637M + 256M = 893M parameters and 87.5 GMAC per 224 px image."""

from __future__ import annotations

import pytest

from florence.config.model import ModelConfig
from florence.models.build import build_model
from florence.models.flops import count_macs, count_parameters

HUGE = ModelConfig.model_validate({"preset": "huge"})


def test_huge_has_the_papers_parameters() -> None:
    count = count_parameters(HUGE)
    assert count.image == pytest.approx(637e6, rel=0.01)
    assert count.text == pytest.approx(256e6, rel=0.01)
    assert count.total == pytest.approx(893e6, rel=0.01)


@pytest.mark.parametrize(("image_size", "window_size", "gmacs"), [(224, 7, 87.5), (384, 12, 261.5)])
def test_huge_has_the_published_macs(image_size: int, window_size: int, gmacs: float) -> None:
    cfg = ModelConfig.model_validate(
        {"preset": "huge", "image": {"image_size": image_size, "window_size": window_size}}
    )
    assert count_macs(cfg).image == pytest.approx(gmacs * 1e9, rel=0.03)


def test_macs_equal_the_count_by_hand() -> None:
    cfg = ModelConfig.model_validate({"preset": "pico"})
    image, dim, tokens, macs = cfg.image, cfg.image.embed_dim, 64, 64 * 32 * 3 * 7**2
    for stage, depth in enumerate(image.depths):
        if stage:
            dim, tokens = 2 * dim, tokens // 4
            macs += tokens * dim * (dim // 2) * 3**2
        window = min(tokens, image.window_size**2)
        macs += depth * tokens * (12 * dim**2 + 2 * window * dim)
    assert count_macs(cfg).image == macs + dim * cfg.embed_dim

    text, length = cfg.text, cfg.text.context_length
    layer = length * (12 * text.width**2 + 2 * length * text.width)
    assert count_macs(cfg).text == text.num_layers * layer + text.width * cfg.embed_dim


def test_the_towers_and_the_logit_scale_are_all_there_is() -> None:
    cfg = ModelConfig.model_validate({"preset": "pico"})
    parameters = sum(parameter.numel() for parameter in build_model(cfg).parameters())
    assert count_parameters(cfg).total + 1 == parameters
