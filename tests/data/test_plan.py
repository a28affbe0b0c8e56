"""Properties that a plan has for any dataset, seed and batch size."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qdet.data.augment import AugmentConfig
from qdet.data.plan import plan_epoch, plan_evaluation
from qdet.errors import ConfigError

AUGMENT = AugmentConfig(crop=True)


@st.composite
def datasets(draw):
    n = draw(st.integers(1, 400))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    sizes = rng.integers(100, 700, (n, 2))
    shard = np.sort(rng.integers(0, draw(st.integers(1, 40)), n)).astype(np.uint16)
    return sizes, shard


@settings(deadline=None, max_examples=60)
@given(datasets(), st.integers(0, 2**63), st.integers(0, 9), st.integers(1, 24))
def test_every_sample_is_in_at_most_one_batch_and_few_are_dropped(dataset, seed, epoch, global_batch):
    sizes, shard = dataset
    if len(sizes) < global_batch:
        with pytest.raises(ConfigError, match=r"--train\.batch-size"):
            plan_epoch(sizes, shard, AUGMENT, seed=seed, epoch=epoch, global_batch=global_batch)
        return
    plan = plan_epoch(sizes, shard, AUGMENT, seed=seed, epoch=epoch, global_batch=global_batch)
    assert plan.rows.shape == (len(sizes) // global_batch, global_batch)
    assert len(np.unique(plan.rows)) == plan.rows.size == len(sizes) - plan.dropped
    assert plan.dropped < global_batch
    assert (plan.padded_hw % 32 == 0).all()
    largest = plan.views.final_hw[plan.rows].max(axis=1)
    assert (plan.padded_hw >= largest).all()
    assert (plan.padded_hw - largest < 32).all()
    again = plan_epoch(sizes, shard, AUGMENT, seed=seed, epoch=epoch, global_batch=global_batch)
    np.testing.assert_array_equal(plan.rows, again.rows)


def test_epochs_seeds_and_dropped_samples_differ():
    sizes, shard = np.full((101, 2), 300), np.arange(101, dtype=np.uint16) // 10
    plans = [
        plan_epoch(sizes, shard, AUGMENT, seed=s, epoch=e, global_batch=10)
        for s, e in ((0, 0), (0, 1), (1, 0))
    ]
    assert len({plan.rows.tobytes() for plan in plans}) == 3
    dropped = {e: set(range(101)) - set(plan.rows.ravel().tolist()) for e, plan in enumerate(plans)}
    assert len(set(map(frozenset, dropped.values()))) > 1


def test_a_window_touches_few_shards_and_shards_are_mixed():
    shard = np.repeat(np.arange(64, dtype=np.uint16), 50)
    sizes = np.full((len(shard), 2), 300)
    plan = plan_epoch(sizes, shard, AUGMENT, seed=0, epoch=0, global_batch=10)
    window = shard[plan.rows[:64]]
    assert len(np.unique(window)) <= 16
    assert np.mean([len(np.unique(batch)) for batch in window]) > 6


def test_batches_of_like_shapes_waste_little():
    sizes = np.random.default_rng(0).integers(300, 640, (4096, 2))
    shard = np.arange(4096, dtype=np.uint16) // 256
    plan = plan_epoch(sizes, shard, AUGMENT, seed=0, epoch=0, global_batch=16)
    padded = plan.padded_hw.prod(axis=1).sum() * 16
    assert padded / plan.views.final_hw[plan.rows].prod(axis=-1).sum() < 1.25


@settings(deadline=None, max_examples=40)
@given(datasets(), st.integers(1, 9))
def test_evaluation_has_every_sample_once_and_fills_the_last_batch(dataset, batch_size):
    sizes, _ = dataset
    plan = plan_evaluation(sizes, AUGMENT, batch_size=batch_size)
    n = len(sizes)
    assert sorted(plan.rows.ravel()[:n].tolist()) == list(range(n))
    assert plan.rows.size - n < batch_size
    assert set(plan.rows.ravel()[n:].tolist()) <= set(plan.rows[-1].tolist())
