"""The model schema: presets fill in, given fields win, impossible sizes are refused."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from florence.config.model import PRESETS, ImageEncoderConfig, ModelConfig, TextEncoderConfig


@pytest.mark.parametrize("preset", PRESETS)
def test_preset_fills_both_towers(preset: str) -> None:
    cfg = ModelConfig.model_validate({"preset": preset})
    assert cfg.embed_dim == PRESETS[preset]["embed_dim"]
    assert cfg.image.depths == PRESETS[preset]["image"]["depths"]
    assert cfg.text.width == PRESETS[preset]["text"]["width"]


def test_given_fields_win_over_the_preset() -> None:
    cfg = ModelConfig.model_validate(
        {"preset": "huge", "embed_dim": 8, "image": {"image_size": 384, "window_size": 12}}
    )
    assert (cfg.embed_dim, cfg.image.image_size, cfg.image.window_size) == (8, 384, 12)
    assert cfg.image.depths == (2, 2, 24, 6)


@pytest.mark.parametrize("preset", PRESETS)
def test_json_round_trip(preset: str) -> None:
    cfg = ModelConfig.model_validate({"preset": preset, "text": {"context_length": 5}})
    assert ModelConfig.model_validate_json(cfg.model_dump_json()) == cfg


def test_the_width_doubles_at_every_stage() -> None:
    assert ImageEncoderConfig(embed_dim=96).widths == (96, 192, 384, 768)


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValidationError, match="depths has 2 stages but num_heads has 1"):
        ImageEncoderConfig(depths=(1, 1), num_heads=(1,))
    with pytest.raises(ValidationError, match=r"num_heads\[1\] = 3 does not divide the width 64"):
        ImageEncoderConfig(embed_dim=32, depths=(1, 1), num_heads=(1, 3))
    with pytest.raises(ValidationError, match="num_heads = 3 does not divide width = 64"):
        TextEncoderConfig(width=64, num_heads=3)
    with pytest.raises(ValidationError, match="preset"):
        ModelConfig.model_validate({"preset": "gigantic"})
