"""The text transformer: padding, pooling at the last token, causality."""

from __future__ import annotations

import pytest
import torch

from florence.config.model import TextEncoderConfig
from florence.models.text_transformer import TextTransformer
from florence.util.errors import UserError


def _encoder(*, causal: bool = True, num_layers: int = 2) -> TextTransformer:
    torch.manual_seed(0)
    cfg = TextEncoderConfig(
        vocab_size=50,
        context_length=12,
        width=16,
        num_heads=2,
        num_layers=num_layers,
        causal=causal,
    )
    encoder = TextTransformer(cfg).eval()
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return encoder


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("length", [1, 5, 12])
def test_padding_changes_nothing(causal: bool, length: int) -> None:
    encoder = _encoder(causal=causal)
    text = torch.randint(50, (1, length))
    alone = encoder(text, torch.ones_like(text))
    for padded in range(length, 13):
        ids = torch.randint(50, (2, padded))  # padded with any tokens, next to a longer text
        ids[0, :length] = text
        mask = torch.ones_like(ids)
        mask[0, length:] = 0
        torch.testing.assert_close(encoder(ids, mask)[:1], alone)
        torch.testing.assert_close(encoder(ids, mask.bool())[:1], alone)


def test_the_feature_is_the_last_tokens() -> None:
    encoder = _encoder()
    ids = torch.randint(50, (1, 6))
    feature = encoder(ids, torch.ones_like(ids))
    for position in range(6):
        other = ids.clone()
        other[0, position] = (other[0, position] + 1) % 50
        assert not torch.allclose(encoder(other, torch.ones_like(ids)), feature)


def test_causal_tokens_do_not_see_later_ones() -> None:
    """One layer's last token sees all either way; in the second layer it sees what others saw."""
    ids = torch.randint(50, (1, 6))
    mask = torch.ones_like(ids)
    for num_layers, equal in [(1, True), (2, False)]:
        causal = _encoder(num_layers=num_layers)(ids, mask)
        full = _encoder(num_layers=num_layers, causal=False)(ids, mask)
        assert torch.allclose(causal, full, atol=1e-5) is equal


def test_a_text_beyond_the_context_is_refused() -> None:
    ids = torch.zeros(1, 13, dtype=torch.long)
    with pytest.raises(UserError, match=r"13 tokens does not fit text.context_length = 12"):
        _encoder()(ids, torch.ones_like(ids))
