"""Log-Gaussian maps: against one query, head and cell at a time."""

import pytest
import torch
from torch.nn.functional import softmax
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from qdet.detectors.smca.gaussian_prior import FLOOR, NUMBERS, GaussianPrior, log_gaussian

B, N, D, M = 2, 5, 12, 3
SIZES = torch.tensor([[96, 128], [80, 100]])
SHAPES = [(6, 8), (3, 4), (2, 2)]
STRIDES = (16, 32, 64)


def prior_of(sharpness="independent", **kwargs) -> GaussianPrior:
    prior = GaussianPrior(D, STRIDES, heads=M, sharpness=sharpness, **kwargs).double()
    for p in prior.parameters():
        torch.nn.init.normal_(p)
    return prior


@pytest.fixture
def guide():
    return torch.randn(B, N, D).double()


@pytest.fixture
def centers():
    return torch.rand(B, N, 2).double()


def factors(sharpness: str, numbers: list[float]) -> tuple[float, float, float]:
    """What multiplies dx^2, dy^2 and their product."""
    squares = [n * n for n in numbers]
    return {
        "fixed": lambda: (1, 1, 0),
        "one": lambda: (squares[0], squares[0], 0),
        "independent": lambda: (*squares, 0),
        "product": lambda: tuple(squares),
    }[sharpness]()


@pytest.mark.parametrize("sharpness", NUMBERS)
def test_matches_one_cell_at_a_time(sharpness, guide, centers):
    prior, count = prior_of(sharpness), NUMBERS[sharpness]
    maps = prior(guide, centers, SIZES, SHAPES)
    for level, (stride, (h, w), factor) in enumerate(zip(STRIDES, SHAPES, (0.5, 1, 2), strict=True)):
        assert maps[level].shape == (B, M, N, h * w)
        for b, n, m in torch.cartesian_prod(*(torch.arange(k) for k in (B, N, M))).tolist():
            first = level * M + m
            moved = prior.offset(guide[b, n])[2 * first : 2 * first + 2]
            cx = centers[b, n, 0] * SIZES[b, 1] / stride + moved[0]
            cy = centers[b, n, 1] * SIZES[b, 0] / stride + moved[1]
            own = prior.sharpness(guide[b, n])[count * first : count * (first + 1)] if count else []
            fx, fy, fxy = factors(sharpness, list(own))
            for y in range(h):
                for x in range(w):
                    dx, dy = (x - cx) ** 2, (y - cy) ** 2
                    want = -factor * (fx * dx + fy * dy + fxy * dx * dy) / 8
                    assert_close(maps[level][b, m, n, y * w + x], want.clamp(min=FLOOR))


def test_three_cells_right_and_four_down():
    found = log_gaussian(torch.zeros(1, 1, 1, 2), torch.full((1, 1, 1, 1), 1 / 8), (5, 4))
    assert found[0, 0, 0, 4 * 4 + 3] == -3.125
    assert found[0, 0, 0, 0] == 0


def test_peaks_at_the_cell_of_the_centre():
    cells = torch.cartesian_prod(torch.arange(7.0), torch.arange(5.0))  # x, y
    near = cells + 0.8 * torch.rand(len(cells), 2) - 0.4
    weights = 0.01 + torch.rand(1, 1, len(cells), 3)
    for numbers in (1, 2, 3):
        best = log_gaussian(near[None, None], weights[..., :numbers], (5, 7)).argmax(-1)
        assert best.flatten().equal((cells[:, 1] * 7 + cells[:, 0]).long())


def test_heads_that_share_do_not_move_their_centre(guide, centers):
    prior = prior_of(head_shared=True)
    assert {name for name, _ in prior.named_parameters()} == {"sharpness.weight", "sharpness.bias"}
    for found, (h, w), stride in zip(prior(guide, centers, SIZES, SHAPES), SHAPES, STRIDES, strict=True):
        assert found.shape == (B, 1, N, h * w)
        cell = (centers * SIZES.flip(-1).unsqueeze(1) / stride).round()
        inside = (cell[..., 0] < w) & (cell[..., 1] < h)
        best = found.squeeze(1).argmax(-1)
        assert best[inside].equal((cell[..., 1] * w + cell[..., 0]).long()[inside])


def test_starts_equally_sharp_for_every_query(guide, centers):
    prior = GaussianPrior(D, STRIDES, heads=M).double()
    assert_close(prior.sharpness(guide), torch.ones(B, N, len(STRIDES) * M * 2).double())
    assert prior.offset.weight.abs().max() <= (6 / (D + 2 * len(STRIDES) * M)) ** 0.5
    assert prior.offset.weight.std() > 0


@pytest.mark.parametrize("numbers", [1, 2, 3])
def test_stays_finite_however_far_and_sharp(numbers):
    centers = 1e3 * torch.randn(1, 2, 4, 2)
    maps = log_gaussian(centers, torch.full((1, 2, 4, numbers), 1e6), (6, 8))
    assert maps.half().isfinite().all()
    assert maps.min() >= FLOOR
    assert softmax(maps, dim=-1).isfinite().all()


def test_a_bf16_guide_places_maps_in_fp32(guide, centers):
    prior = prior_of().float()
    with torch.autocast("cpu", torch.bfloat16):
        found = prior(guide.bfloat16(), centers.float(), SIZES, SHAPES)
    want = prior(guide.bfloat16().float(), centers.float(), SIZES, SHAPES)
    for a, b in zip(found, want, strict=True):
        assert a.dtype == torch.float32
        assert_close(a, b)


class Largest(TorchDispatchMode):
    """The most numbers that any operation returned."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor):
            self.numel = max(self.numel, out.numel())
        return out


@pytest.mark.parametrize("numbers", [1, 2, 3])
def test_nothing_is_larger_than_the_map(numbers):
    with Largest() as largest:
        found = log_gaussian(torch.rand(B, M, N, 2), torch.rand(B, M, N, numbers), (16, 16))
    assert largest.numel == found.numel()
