"""CoSwin: the shapes of its maps, any image size, depth-wise drop path."""

from __future__ import annotations

import pytest
import torch

from florence.config.model import ImageEncoderConfig
from florence.models.coswin import CoSwin

SMALL = ImageEncoderConfig(
    image_size=32,
    embed_dim=8,
    depths=(2, 1, 2),
    num_heads=(1, 2, 4),
    window_size=4,
    drop_path_rate=0.2,
)


@pytest.fixture(scope="module")
def encoder() -> CoSwin:
    torch.manual_seed(0)
    return CoSwin(SMALL).eval()


@pytest.mark.parametrize(
    ("size", "sides"),
    [
        ((32, 32), [(8, 8), (4, 4), (2, 2)]),
        ((64, 32), [(16, 8), (8, 4), (4, 2)]),
        ((57, 91), [(14, 23), (7, 12), (4, 6)]),
        ((5, 3), [(1, 1), (1, 1), (1, 1)]),
    ],
)
def test_maps_of_any_image_size(
    encoder: CoSwin, size: tuple[int, int], sides: list[tuple[int, int]]
) -> None:
    maps = encoder.forward_features(torch.randn(2, 3, *size))
    assert [tuple(m.shape) for m in maps] == [
        (2, *side, 8 * 2**stage) for stage, side in enumerate(sides)
    ]


@pytest.mark.parametrize("size", [224, 384, 512])
def test_the_stem_divides_the_papers_sizes_by_four(size: int) -> None:
    stem = CoSwin(SMALL).stages[0].embed
    assert stem(torch.randn(1, size, size, 3)).shape == (1, size // 4, size // 4, 8)


def test_forward_is_the_normed_average_of_the_last_map(encoder: CoSwin) -> None:
    image = torch.randn(2, 3, 32, 32)
    pooled = encoder.norm(encoder.forward_features(image)[-1]).mean(dim=(1, 2))
    assert torch.equal(encoder(image), pooled)
    assert encoder(image).shape == (2, SMALL.widths[-1])


def test_batch_members_do_not_mix(encoder: CoSwin) -> None:
    image = torch.randn(3, 3, 40, 36)
    torch.testing.assert_close(encoder(image)[1:2], encoder(image[1:2]))


def test_drop_path_grows_linearly_over_all_blocks(encoder: CoSwin) -> None:
    rates = [block.drop_path.rate for stage in encoder.stages for block in stage.blocks]
    assert rates == pytest.approx([0.0, 0.05, 0.1, 0.15, 0.2])


def test_every_other_block_is_shifted(encoder: CoSwin) -> None:
    shifted = [[block.attention.shifted for block in stage.blocks] for stage in encoder.stages]
    assert shifted == [[False, True], [False], [False, True]]
