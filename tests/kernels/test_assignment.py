"""The kernel of the assignment against scipy's pairs, in Triton's interpreter."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from qdet.errors import DivergedError
from qdet.kernels import assignment as module
from qdet.kernels.assignment import MOST, assignment, assignment_runs
from qdet.kernels.choice import _State, kernels
from qdet.losses import SetLossConfig, matching
from qdet.losses.matching import OnDevice, OnHost, assign
from qdet.types import Predictions, Targets
from tests.support.interpreter import interpreted

pytestmark = interpreted


def solve_one_by_one(cost: torch.Tensor, counts: tuple[int, ...]) -> list[list[tuple[int, int]]]:
    """Pairs of query and object of every stage by scipy, image by image in the order of the queries."""
    stages = []
    for stage in cost.numpy():
        pairs, at = [], 0
        for image, n in enumerate(counts):
            rows, columns = linear_sum_assignment(stage[at : at + n])
            own = sorted(zip(columns.tolist(), rows.tolist(), strict=True))
            pairs += [(image * cost.shape[2] + q, at + o) for q, o in own]
            at += n
        stages.append(pairs)
    return stages


def solve(cost: torch.Tensor, counts: tuple[int, ...]) -> list[list[tuple[int, int]]]:
    """Pairs by the kernel, all costs being finite."""
    pairs, broken = assignment(cost, counts)
    assert broken.shape == (len(cost), len(counts))
    assert not broken.any()
    return [list(zip(*each, strict=True)) for each in pairs.transpose(0, 1).tolist()]


def draw(seed: int, stages: int, counts: tuple[int, ...], queries: int) -> torch.Tensor:
    """Costs of which every other stage has three values at most: many assignments cost the same."""
    cost = torch.randn(stages, sum(counts), queries, generator=torch.Generator().manual_seed(seed))
    cost[::2] = cost[::2].round().clamp(-1, 1)
    return cost


@settings(max_examples=8, deadline=None)
@given(st.lists(st.integers(0, 7), min_size=1, max_size=3), st.integers(1, 7), st.integers(0, 2**31))
def test_is_scipys_cheapest_assignment_of_every_object_or_query(counts, queries, seed):
    counts = tuple(counts)
    cost = draw(seed, 2, counts, queries)
    found, wanted = solve(cost, counts), solve_one_by_one(cost, counts)
    for stage, pairs, theirs in zip(cost.double(), found, wanted, strict=True):
        queries_of_all, objects = ([pair[side] for pair in pairs] for side in (0, 1))
        assert len(set(queries_of_all)) == len(set(objects)) == sum(min(n, queries) for n in counts)
        owner = np.repeat(np.arange(len(counts)), counts)
        assert [q // queries for q in queries_of_all] == owner[objects].tolist()
        total, least = (sum(stage[o, q % queries].item() for q, o in each) for each in (pairs, theirs))
        assert total == pytest.approx(least, rel=1e-12, abs=1e-12)
    assert found == wanted  # equal costs included


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_ten_thousand_problems_have_scipys_cost_and_pairs():
    random, problems = np.random.default_rng(0), 0
    while problems < 10_000:
        counts = tuple(random.integers(0, 6, size=10).tolist())
        cost = draw(problems, 2, counts, int(random.integers(1, 6)))
        found, wanted = solve(cost, counts), solve_one_by_one(cost, counts)
        for stage, pairs, theirs in zip(cost.double(), found, wanted, strict=True):
            total, least = (
                sum(stage[o, q % cost.shape[2]].item() for q, o in each) for each in (pairs, theirs)
            )
            assert total == pytest.approx(least, rel=1e-12, abs=1e-12)
        assert found == wanted
        problems += 2 * sum(n > 0 for n in counts)


@pytest.mark.parametrize(
    ("counts", "queries"),
    [((1,), 1), ((1,), 40), ((40,), 1), ((0, 1, 0), 3), ((12,), 300), ((33,), 9)],
    ids=["one cost", "one object", "one query", "empty images", "many queries", "many objects"],
)
def test_shapes_at_the_edges(counts, queries):
    cost = draw(0, 2, counts, queries)
    assert solve(cost, counts) == solve_one_by_one(cost, counts)


@pytest.mark.parametrize("counts", [(), (0, 0)], ids=["no image", "no object"])
def test_nothing_to_match(counts):
    pairs, broken = assignment(torch.zeros(3, 0, 4), counts)
    assert pairs.shape == (2, 3, 0)
    assert broken.shape == (3, len(counts))
    assert not broken.any()


def test_costs_of_every_magnitude_and_of_several_in_one_matrix():
    counts, cost = (4, 2), draw(1, 6, (4, 2), 3)
    cost /= cost.abs().amax((1, 2), keepdim=True)
    cost[:5] *= torch.tensor([3e38, 1e20, 1e-20, 1e-44, 0.0])[:, None, None]
    cost[5] *= torch.tensor([3e38, 1.0, 1e-44])
    assert solve(cost, counts) == solve_one_by_one(cost, counts)


def test_takes_costs_in_any_layout():
    counts, cost = (3, 6), draw(2, 2, (3, 6), 5)
    turned = cost.mT.contiguous().mT
    assert not turned.is_contiguous()
    assert solve(turned, counts) == solve(cost, counts)
    shared = cost[:1, :, :1].expand(2, -1, 5)  # all queries cost the same
    assert solve(shared, counts) == solve_one_by_one(shared, counts)


def test_costs_that_are_not_finite_are_named_by_stage_and_image():
    counts, cost = (3, 0, 2, 5), draw(3, 2, (3, 0, 2, 5), 4)
    cost[1, 4, 3], cost[1, 8, 0], cost[1, 9, 1] = math.inf, -math.inf, math.nan
    pairs, broken = assignment(cost, counts)
    assert broken.tolist() == [[0, 0, 0, 0], [0, 0, 1, 1]]
    assert ((pairs >= 0) & (pairs < 16)).all()  # nothing is read from elsewhere
    said = []
    for choice in ("torch", "triton"):
        with kernels(choice), pytest.raises(DivergedError) as error:
            assign(cost, counts).result()
        said.append(str(error.value))
    assert said[0] == said[1]
    assert "stage 1, image 2 of the batch" in said[1]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf], ids=str)
def test_one_cost_that_is_not_finite_is_seen_wherever_it_is(value):
    for at in (0, 3, 4, 7):
        cost = draw(at, 1, (2,), 4)
        cost.view(-1)[at] = value
        assert assignment(cost, (2,))[1].tolist() == [[1]]


def test_what_it_does_not_support_is_left_to_scipy_which_is_said_once(monkeypatch, recwarn):
    monkeypatch.setattr(_State, "said", set())  # whatever tests before have made it say
    with kernels("triton"):
        for cost, counts in (
            (torch.zeros(1, 1, MOST + 1), (1,)),
            (torch.zeros(1, MOST + 2, 1), (MOST + 2,)),
            (torch.zeros(1, 2, 3, dtype=torch.float64), (2,)),
        ):
            assert not assignment_runs(cost, counts)
            pending = assign(cost, counts)
            assert isinstance(pending, OnHost)
            assert pending.result().queries.tolist() == [list(range(min(cost.shape[1:])))]
    assert [str(w.message).partition(", not as a kernel: ")[2] for w in recwarn] == [
        "more than 2048 queries, or objects of an image, do not fit a program",
        "it has no kernel for torch.float64",
    ]


def test_a_kernel_that_finds_other_pairs_is_not_used(monkeypatch, recwarn):
    define = module.define_assignment
    monkeypatch.setattr(module, "define_assignment", lambda cost: define(-cost))
    with kernels("triton"):
        for _ in range(2):
            assert not assignment_runs(torch.zeros(1, 2, 60), (2,))
    assert len(recwarn) == 1
    assert "ArithmeticError: pairs differ from scipy's" in str(recwarn[0].message)


def test_a_loss_and_its_gradients_are_the_same_bits_with_it(monkeypatch):
    logits, sizes = torch.randn(2, 2, 4, 3), torch.tensor([[64, 64]] * 2)
    logits[0] = 0  # as a detector begins: every query is as good as any other
    boxes = (10 * torch.rand(2, 2, 4, 4)).cumsum(-1)
    boxes[0] = torch.tensor([0, 0, 64, 64])
    targets = Targets((10 * torch.rand(7, 4)).cumsum(-1), torch.arange(7) % 3, (2, 5))
    found = []
    for on_device in (False, True):
        monkeypatch.setattr(matching, "assignment_runs", lambda *_, wanted=on_device: wanted)
        leaves = logits.clone().requires_grad_(), boxes.clone().requires_grad_()
        stages = [Predictions(*stage) for stage in zip(*leaves, strict=True)]
        total = SetLossConfig().build(3)(stages, targets, sizes, normalizer=6).total
        found.append((total, *torch.autograd.grad(total, leaves)))
    for a, b in zip(*found, strict=True):
        assert a.equal(b)


def test_matching_is_chosen_by_the_same_setting_as_other_kernels():
    cost, counts = draw(4, 1, (2, 3), 4), (2, 3)
    for choice, kind in (("torch", OnHost), ("auto", OnHost), ("triton", OnDevice)):
        with kernels(choice):
            pending = assign(cost, counts)
        assert isinstance(pending, kind)
        pairs = pending.result()
        assert [list(zip(pairs.queries[0].tolist(), pairs.objects[0].tolist(), strict=True))] == (
            solve_one_by_one(cost, counts)
        )
