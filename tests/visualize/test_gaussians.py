"""Recorded Gaussians are those that SMCA multiplies attention with, and peak at the predicted centres."""

import numpy as np
import pytest
import torch
from torch import nn

from qdet.detectors.smca.gaussian_prior import GaussianPrior
from qdet.visualize.looking.frame import Frame
from qdet.visualize.looking.gaussians import Gaussians, gaussians_of, watch_gaussians
from qdet.visualize.looking.recording import recording

STRIDES = (16, 32)
SIZE, ORIGINAL, PADDED = (96, 128), (192, 384), (128, 128)
SHAPES = ((8, 8), (4, 4))


def record(**kind) -> tuple[Gaussians, list[torch.Tensor], torch.Tensor, GaussianPrior, torch.Tensor]:
    """Return the Gaussians, the layer's own maps, the centres, the layer and its guide."""
    prior = GaussianPrior(8, STRIDES, heads=2, **kind).double()
    for head in (prior.offset, prior.sharpness):
        if head is not None:
            nn.init.normal_(head.weight, std=0.3)
    guide, centers = torch.randn(1, 3, 8).double(), torch.rand(1, 3, 2).double()
    with torch.no_grad(), recording(watch_gaussians(prior)) as captured:
        maps = prior(guide, centers, torch.tensor([SIZE]), SHAPES)
    (seen,) = gaussians_of(captured, Frame(0, SIZE, ORIGINAL, PADDED))
    return seen, maps, centers, prior, guide


@pytest.mark.parametrize("sharpness", ["fixed", "one", "independent", "product"])
@pytest.mark.parametrize("head_shared", [False, True])
def test_gaussians_at_the_cells_are_the_layers_own(sharpness, head_shared):
    seen, maps, *_ = record(sharpness=sharpness, head_shared=head_shared)
    assert seen.strides == STRIDES
    for level, ((height, width), stride) in enumerate(zip(SHAPES, STRIDES, strict=True)):
        x, y = np.arange(width) * stride * 3.0, np.arange(height) * stride * 2.0  # original per resized pixel
        points = np.stack(np.meshgrid(x, y), axis=-1)
        for query in range(3):
            expected = maps[level][0, :, query].exp().numpy().reshape(-1, height, width)
            assert seen.at(query, points)[level] == pytest.approx(expected, abs=1e-9)


def test_a_gaussian_is_highest_at_the_predicted_centre():
    """The centre is that of the query, in pixels, moved by the head's offset in cells (section 3.1)."""
    seen, _, centers, prior, guide = record(sharpness="independent")
    offsets = prior.offset(guide).detach().reshape(3, 2, 2, 2)  # query, level, head, x and y
    for query in range(3):
        for level, stride in enumerate(STRIDES):
            for head in range(2):
                x = (centers[0, query, 0] * 128 + offsets[query, level, head, 0] * stride) * 3
                y = (centers[0, query, 1] * 96 + offsets[query, level, head, 1] * stride) * 2
                center = seen.centers_xy[query, level, head]
                assert center == pytest.approx([float(x), float(y)], rel=1e-9)
                peak = seen.at(query, center)[level, head]
                assert peak == pytest.approx(1)
                around = center + 5 * np.random.default_rng(0).normal(size=(50, 2))
                assert (seen.at(query, around)[level, head] < peak).all()


def test_half_widths_are_where_a_gaussian_has_fallen_to_a_half():
    seen, *_ = record(sharpness="independent")
    halves = seen.half_widths(1)
    for axis in (0, 1):
        away = np.zeros(2)
        away[axis] = halves[1, 0, axis]
        assert seen.at(1, seen.centers_xy[1, 1, 0] + away)[1, 0] == pytest.approx(0.5)
