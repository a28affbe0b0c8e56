"""Tokens of several levels: where they come from, and where their centres and anchors lie."""

import math

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from qdet.layers.padding import padding_mask
from qdet.layers.token_levels import cell_centers, flatten_maps, sine_tokens, token_levels
from qdet.layers.transformer.token_proposals import best_tokens, grid_anchors, settle, take
from qdet.types import PaddedSizes

SIZES = PaddedSizes(torch.tensor([[96, 64], [80, 128]]), (96, 128))
SHAPES = [(12, 16), (6, 8), (3, 4), (2, 2)]


def maps(channels: int = 8) -> list[torch.Tensor]:
    return [torch.randn(2, channels, *shape) for shape in SHAPES]


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=1, max_size=4))
def test_split_undoes_flatten(shapes):
    features = [torch.randn(2, 3, *shape) for shape in shapes]
    levels = token_levels(features, PaddedSizes(torch.tensor([[32, 32], [20, 7]]), (32, 32)))
    for part, feature in zip(levels.split(flatten_maps(features)), features, strict=True):
        assert part.permute(0, 3, 1, 2).equal(feature)


def test_masks_are_those_of_the_maps():
    levels = token_levels(maps(), SIZES)
    for mask, shape in zip(levels.split(levels.mask), SHAPES, strict=True):
        assert mask.equal(padding_mask(SIZES, *shape))
    assert levels.inside_wh[0].tolist() == [[8, 12], [4, 6], [2, 3], [1, 2]]
    assert levels.inside_wh[1].tolist() == [[16, 10], [8, 5], [4, 3], [2, 2]]


def test_centers_match_one_cell_at_a_time():
    levels = token_levels(maps(), SIZES)
    got = levels.split(cell_centers(levels))
    for level, (height, width) in enumerate(SHAPES):
        for image in range(2):
            w, h = levels.inside_wh[image, level].tolist()
            for i in range(height):
                for j in range(width):
                    want = torch.tensor([(j + 0.5) / w, (i + 0.5) / h])
                    assert_close(got[level][image, i, j], want)


def test_positions_are_half_a_cell_before_detrs():
    first = sine_tokens(token_levels(maps(), SIZES), 8)[0].unflatten(1, SHAPES[0])
    angle = 2 * math.pi * 0.5 / (12 + 1e-6)
    assert_close(first[0, 0, 0, :2], torch.tensor([math.sin(angle), math.cos(angle)]))


def test_anchors_double_with_every_level():
    levels = token_levels(maps(), SIZES)
    boxes, usable = grid_anchors(levels)
    assert boxes[..., :2].equal(cell_centers(levels))
    for level, part in enumerate(levels.split(boxes)):
        assert_close(part[..., 2:], torch.full_like(part[..., 2:], 0.05 * 2**level))
    # Every anchor of these maps is far from the border, so padding alone decides.
    assert usable.equal(~levels.mask)


def test_anchors_near_the_border_are_not_usable():
    """Of 60 columns, the first centre is at 1/120, under the margin of 1/100."""
    levels = token_levels([torch.zeros(1, 1, 2, 60)], PaddedSizes(torch.tensor([[16, 480]]), (16, 480)))
    _, usable = grid_anchors(levels)
    assert usable.view(2, 60).all(0).nonzero().flatten().tolist() == list(range(1, 59))


def test_without_an_anchor_the_box_is_ones_and_has_no_gradient():
    boxes = torch.rand(1, 3, 4, requires_grad=True)
    settled = settle(boxes, torch.tensor([[True, False, True]]))
    assert settled[0, 1].tolist() == [1, 1, 1, 1]
    settled.sum().backward()
    assert boxes.grad[0].tolist() == [[1] * 4, [0] * 4, [1] * 4]


def test_best_tokens_are_those_of_highest_score():
    x = torch.arange(10).view(2, 5, 1).float()
    scores = torch.tensor([[1, 5, 3, 2, 4], [9, 1, 2, 3, 0]]).float()
    assert take(x, best_tokens(scores, 2)).flatten(1).tolist() == [[1, 4], [5, 8]]
    assert best_tokens(scores, 9).shape == (2, 5)
