"""Adaptive 3D sampling: against one point at a time, and the numbers of the authors' code."""

import math

import pytest
import torch
from torch.testing import assert_close

from qdet.detectors.adamixer.sampling_3d import AdaptiveSampling, level_weights, sample_levels, sample_points
from qdet.detectors.adamixer.xyzr import place

B, N, G, P, C, D = 2, 3, 2, 4, 5, 16
STRIDES = (4, 8, 16)
HEIGHT, WIDTH = 48, 64


def maps() -> list[torch.Tensor]:
    return [torch.randn(B, G * C, HEIGHT // s, WIDTH // s, dtype=torch.float64) for s in STRIDES]


def read(feature: torch.Tensor, x: float, y: float) -> torch.Tensor:
    """Interpolate one map [C, H, W] at cell coordinates, cells beyond the border being zero."""
    height, width = feature.shape[-2:]
    total = torch.zeros(feature.shape[0], dtype=feature.dtype)
    for i in (math.floor(y), math.floor(y) + 1):
        for j in (math.floor(x), math.floor(x) + 1):
            if 0 <= i < height and 0 <= j < width:
                total += (1 - abs(y - i)) * (1 - abs(x - j)) * feature[:, i, j]
    return total


def test_matches_one_point_at_a_time():
    features = maps()
    xy = torch.rand(B, N, G, P, 2, dtype=torch.float64) * torch.tensor([1.4 * WIDTH, 1.4 * HEIGHT]) - 10
    points = torch.cat((xy, 1 + 4 * torch.rand(B, N, G, P, 1, dtype=torch.float64)), dim=-1)
    got = sample_levels(points, features, STRIDES)
    for b, n, g, p in torch.cartesian_prod(*(torch.arange(k) for k in (B, N, G, P))).tolist():
        x, y, z = points[b, n, g, p].tolist()
        near = torch.tensor([-((z - math.log2(s)) ** 2) / 2 for s in STRIDES]).double().softmax(0)
        want = sum(
            share * read(feature[b, g * C : (g + 1) * C], x / stride - 0.5, y / stride - 0.5)
            for share, feature, stride in zip(near, features, STRIDES, strict=True)
        )
        assert_close(got[b, n, g, p], want)


def test_points_of_the_authors_code():
    xyzr = torch.tensor([[[400, 300, 5, 0.5]]])
    offsets = torch.tensor([[0.25, -0.5, -1], [0.1, 0.2, 0.3]]).view(1, 1, 1, 2, 3)
    want = torch.tensor([[406.72717, 280.97269, 4.0], [402.69086, 307.61093, 5.3]])
    assert_close(sample_points(place(xyzr), offsets)[0, 0, 0], want)


@pytest.mark.parametrize(
    ("z", "want"),
    [
        (4.5, [0.02059, 0.15216, 0.41362, 0.41362]),
        (4.0, [0.058, 0.258, 0.426, 0.258]),  # a box of 32 pixels, one octave finer
        (6.0, [0.000, 0.015, 0.180, 0.805]),  # 128 pixels
        (2.0, [0.570, 0.346, 0.077, 0.006]),  # 8 pixels
    ],
)
def test_level_weights_of_the_authors_code(z, want):
    got = level_weights(torch.tensor([z]), (4, 8, 16, 32))[:, 0]
    assert_close(got, torch.tensor(want), atol=6e-4, rtol=0)
    assert_close(got.sum(), torch.tensor(1.0))


@pytest.mark.parametrize("points", [9, 6])
def test_starts_as_the_authors_code(points):
    sampling = AdaptiveSampling(D, STRIDES, groups=G, points=points)
    start = sampling.offsets.bias.detach().view(G, points, 3)
    assert not sampling.offsets.weight.any()
    assert (start[..., 2] == -1).all()
    assert (start[..., :2].abs() <= 0.5).all()
    if points == 9:  # a square number: cell centres of a 3 x 3 grid, the first coordinate slow
        third = 1 / 3
        assert_close(
            start[0, :4, :2], torch.tensor([[-third, -third], [-third, 0], [-third, third], [0, -third]])
        )
        assert start[0].equal(start[1])
    else:
        assert not torch.allclose(start[0], start[1])


def test_two_axes_are_three_without_dz():
    """A point's level is then that of its box: z~ = z."""
    flat = AdaptiveSampling(D, STRIDES, groups=G, points=P, axes=2).double()
    full = AdaptiveSampling(D, STRIDES, groups=G, points=P).double()
    for a, b in zip(full.offsets.parameters(), flat.offsets.parameters(), strict=True):
        torch.nn.init.normal_(b, std=0.2)
        a.data.zero_().unflatten(0, (G, P, 3))[:, :, :2] = b.data.unflatten(0, (G, P, 2))
    query = torch.randn(B, N, D, dtype=torch.float64)
    boxes = place(torch.tensor([30.3, 21.7, 4.1, 0.2], dtype=torch.float64).expand(B, N, 4))
    features = maps()
    assert_close(flat(query, boxes, features), full(query, boxes, features))


def test_two_axes_start_on_the_same_grid():
    flat = AdaptiveSampling(D, STRIDES, groups=G, points=9, axes=2)
    full = AdaptiveSampling(D, STRIDES, groups=G, points=9)
    assert flat.offsets.bias.view(G, 9, 2).equal(full.offsets.bias.view(G, 9, 3)[..., :2])


def test_one_level_is_read_as_it_is():
    """Its weight is one, whatever the size of the box."""
    sampling = AdaptiveSampling(D, (8,), groups=G, points=P, axes=2).double()
    torch.nn.init.normal_(sampling.offsets.weight, std=0.1)
    feature, query = maps()[1], torch.randn(B, N, D, dtype=torch.float64)
    xyzr = torch.tensor([30.3, 21.7, 2.1, 0.2], dtype=torch.float64).expand(B, N, 4)
    got = sampling(query, place(xyzr), [feature])
    offsets = sampling.offsets(query).unflatten(-1, (G, P, 2))
    for b, n, g, p in torch.cartesian_prod(*(torch.arange(k) for k in (B, N, G, P))).tolist():
        x, y, z, r = xyzr[b, n].tolist()
        dx, dy = offsets[b, n, g, p].tolist()
        x, y = x + dx * 2 ** (z - r / 2), y + dy * 2 ** (z + r / 2)
        assert_close(got[b, n, g, p], read(feature[b, g * C : (g + 1) * C], x / 8 - 0.5, y / 8 - 0.5))


def test_without_adaptability_all_queries_share_their_offsets():
    sampling = AdaptiveSampling(D, STRIDES, groups=G, points=P, adaptive=False)
    assert [name for name, _ in sampling.named_parameters()] == ["offsets.bias"]
    assert (sampling.offsets.bias.view(G, P, 3)[..., 2] == -1).all()
    features = [f.float() for f in maps()]
    xyzr = torch.tensor([30.3, 21.7, 4.1, 0.2]).expand(B, N, 4)
    got = sampling(torch.randn(B, N, D), place(xyzr), features)
    assert_close(got, got[:, :1].expand_as(got))


def test_gradients_match_finite_differences():
    """Through where a point lies, on which level, and what it reads there."""
    strides, xyzr = (4, 8), torch.tensor([[[7.3, 9.7, 2.6, 0.2]]], dtype=torch.float64)
    sampling = AdaptiveSampling(4, strides, groups=2, points=2).double()
    torch.nn.init.normal_(sampling.offsets.weight, std=0.1)
    query = torch.randn(1, 1, 4, dtype=torch.float64, requires_grad=True)
    features = [torch.randn(1, 2, 16 // s, 16 // s, dtype=torch.float64, requires_grad=True) for s in strides]
    assert torch.autograd.gradcheck(lambda q, *f: sampling(q, place(xyzr), f), (query, *features))


def test_padding_with_zeros_changes_nothing():
    """Positions are pixels; a batch padded to a larger size shifts none of them."""
    sampling = AdaptiveSampling(D, STRIDES, groups=G, points=P).double()
    query = torch.randn(B, N, D, dtype=torch.float64)
    boxes = place(torch.tensor([30.3, 21.7, 4.1, 0.2], dtype=torch.float64).expand(B, N, 4))
    features = maps()
    padded = [
        torch.nn.functional.pad(f, (0, 64 // s, 0, 32 // s)) for f, s in zip(features, STRIDES, strict=True)
    ]
    assert_close(sampling(query, boxes, padded), sampling(query, boxes, features))
