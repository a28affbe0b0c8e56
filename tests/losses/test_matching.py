"""Hungarian matching: against trying every assignment, with padding, empty images and broken costs."""

from itertools import permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qdet.errors import DivergedError
from qdet.losses import matched_objects
from qdet.losses.matching import assign
from qdet.types import Targets


def best(cost: torch.Tensor) -> float:
    """Total cost of the best assignment of a matrix, by trying all."""
    if cost.shape[0] < cost.shape[1]:
        cost = cost.T
    rows, columns = cost.shape
    return min(
        sum(cost[r, c].item() for c, r in enumerate(order)) for order in permutations(range(rows), columns)
    )


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 3),
    st.lists(st.integers(0, 5), min_size=1, max_size=4),
    st.integers(1, 5),
    st.integers(0, 2**31),
)
def test_is_the_cheapest_of_all_assignments(stages, counts, queries, seed):
    cost = torch.randn(stages, sum(counts), queries, generator=torch.Generator().manual_seed(seed))
    pairs = assign(cost, counts).result()
    assert pairs.queries.shape == pairs.objects.shape == (stages, sum(min(queries, n) for n in counts))
    for stage in range(stages):
        first = at = 0
        for image, n in enumerate(counts):
            here = slice(at, at + min(queries, n))
            q, o = pairs.queries[stage, here] - image * queries, pairs.objects[stage, here] - first
            assert len(q.unique()) == len(o.unique()) == len(q)
            assert ((q >= 0) & (q < queries) & (o >= 0) & (o < n)).all()
            if n:
                rows = cost[stage, first : first + n]
                assert rows[o, q].sum().item() == pytest.approx(best(rows), abs=1e-5)
            first, at = first + n, here.stop


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_broken_cost_names_its_stage_and_image(bad):
    cost = torch.zeros(3, 3, 4)
    cost[2, 2, 3] = bad
    with pytest.raises(DivergedError, match=r"stage 2, image 1 .*NaN or infinite.*--optim\.lr"):
        assign(cost, (2, 1)).result()


def test_copies_from_the_device_once(monkeypatch):
    copies = []
    copy = torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda self: copies.append(self.shape) or copy(self))
    assign(torch.rand(6, 6, 10), (3, 0, 2, 1)).result()
    assert copies == [(6, 6, 10)]


def test_nothing_to_match_copies_nothing(monkeypatch):
    monkeypatch.setattr(torch.Tensor, "cpu", lambda self: pytest.fail("copied"))
    pairs = assign(torch.rand(6, 0, 10), (0, 0)).result()
    assert pairs.queries.shape == (6, 0)


def test_threads_change_nothing(monkeypatch):
    counts, cost = (3, 0, 12, 1, 7), torch.rand(6, 23, 10)
    alone = assign(cost, counts).result()
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    shared = assign(cost, counts).result()
    assert alone.queries.equal(shared.queries)
    assert alone.objects.equal(shared.objects)
    cost[4, 5, 0] = torch.nan
    with pytest.raises(DivergedError, match="stage 4, image 2"):
        assign(cost, counts).result()


def test_matched_objects_are_limited_by_queries():
    targets = Targets(torch.zeros(13, 4), torch.zeros(13, dtype=torch.long), (3, 0, 10))
    assert matched_objects(targets, 5) == 8
