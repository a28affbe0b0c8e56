"""Ranks that measure a share of the classes each: together what one measures of all, to the bit."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qdet.evaluation.coco import measure_rows
from qdet.evaluation.engines import Measured
from qdet.evaluation.rows import ObjectRows
from qdet.evaluation.shares import count_categories, share_categories
from tests.support.random_detections import CATEGORIES, random_rows, random_truth

COUNTS = st.lists(st.integers(0, 50), min_size=1, max_size=6)


@given(counts=COUNTS, ranks=st.integers(1, 9))
def test_every_category_has_one_rank(counts, ranks):
    ids = np.arange(len(counts)) * 3 + 1
    shares = share_categories(ids, np.array(counts), ranks)
    assert len(shares) == ranks
    assert sorted(np.concatenate(shares).tolist()) == ids.tolist()
    assert all((np.diff(share) > 0).all() for share in shares)


@settings(max_examples=50)
@given(counts=COUNTS, ranks=st.integers(1, 3))
def test_the_fullest_rank_has_at_most_four_thirds_of_the_best_division(counts, ranks):
    """Of all divisions, tried one by one; a category costs its detections and one."""
    sizes = np.array(counts) + 1
    shares = share_categories(np.arange(len(counts)), np.array(counts), ranks)
    best = min(
        max(np.bincount(division, sizes, ranks)) for division in product(range(ranks), repeat=len(counts))
    )
    assert max(sizes[share].sum() for share in shares) <= best * 4 / 3


def test_detections_of_other_categories_are_not_counted():
    assert count_categories(np.array([8, 3, 5, 8, 99]), np.array([3, 7, 8])).tolist() == [1, 0, 2]
    assert count_categories(np.zeros(0, np.int64), np.array([3, 7])).tolist() == [0, 0]


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), ranks=st.integers(1, 6))
@pytest.mark.parametrize("engine", ["hotcoco", "faster-coco-eval", "pycocotools"])
def test_shares_are_measured_as_the_whole(seed, ranks, engine):
    rng = np.random.default_rng(seed)
    truth = random_truth(rng, images=4)
    objects, rows = ObjectRows.from_annotations(truth["annotations"]), random_rows(rng, truth)
    images, ids = rows.seen, np.array(CATEGORIES)
    shares = share_categories(ids, count_categories(rows.category_ids, ids), ranks)
    parts = [measure_rows(objects, rows, images, share, engine=engine) for share in shares]
    joined, whole = Measured.join(parts, shares), measure_rows(objects, rows, images, ids, engine=engine)
    np.testing.assert_array_equal(joined.precision, whole.precision)
    np.testing.assert_array_equal(joined.recall, whole.recall)
    assert joined.stats.tolist() == whole.stats.tolist()
