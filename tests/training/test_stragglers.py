"""Stragglers: found when they are there, with noise and odd slow steps, and not found when they are not."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from qdet.training.health.stragglers import (
    PARTS,
    QUIET,
    WINDOW,
    Stragglers,
    describe,
    find_stragglers,
    median_of_others,
)

NOISE = 0.1
"""Standard deviation of the logarithm of a time, beside three in a hundred steps three times as slow."""


def step_times(rng, ranks):
    """Times of one step: every step differs from every other, and every rank a little from the others."""
    step = np.exp(rng.normal(0, 0.4)) * np.array([0.02, 1.0])
    times = step * np.exp(rng.normal(0, NOISE, (ranks, 2)))
    times[rng.random(ranks) < 0.03, 1] *= 3
    return times, step.sum()


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    ranks=st.integers(2, 16),
    part=st.sampled_from([0, 1]),
    slower=st.floats(1.3, 3),
    data=st.data(),
)
def test_only_a_worker_30_percent_slower_is_named_within_50_steps(seed, ranks, part, slower, data):
    slow = data.draw(st.integers(0, ranks - 1))
    rng, stragglers, named = np.random.default_rng(seed), Stragglers(), []
    for _ in range(50):
        times, typical = step_times(rng, ranks)
        times[slow, part] += (slower - 1) * typical
        named += stragglers.add(times)
    assert [s.rank for s in named] == [slow]
    assert named[0].part == PARTS[part]
    assert named[0].ratio == pytest.approx(slower, rel=0.15)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), ranks=st.integers(1, 16))
def test_no_worker_is_named_falsely_in_500_steps(seed, ranks):
    rng, stragglers = np.random.default_rng(seed), Stragglers()
    assert not [s for _ in range(500) for s in stragglers.add(step_times(rng, ranks)[0])]


@given(arrays(float, array_shapes(min_dims=2, max_dims=2, min_side=2), elements=st.floats(0, 9)))
def test_the_median_of_others_leaves_out_each_worker_itself(values):
    literal = [np.median(np.delete(values, rank, axis=1), axis=1) for rank in range(values.shape[1])]
    assert np.array_equal(median_of_others(values), np.stack(literal, axis=1))


def test_a_bad_quarter_of_the_steps_is_not_enough():
    rng = np.random.default_rng(0)
    times = np.stack([step_times(rng, 4)[0] for _ in range(WINDOW)])
    times[::4, 2] *= 10
    assert find_stragglers(times) == []


def test_a_worker_that_stays_slow_is_named_again_but_not_at_every_look():
    stragglers, steps = Stragglers(), []
    for step in range(1, WINDOW + QUIET + 20):
        steps += [step for _ in stragglers.add(np.array([[0.0, 1.0], [0.0, 1.0], [0.5, 1.0]]))]
    assert steps == [WINDOW, WINDOW + QUIET]


def test_the_line_names_worker_host_ratio_and_part():
    (found,) = find_stragglers(np.tile([[0.0, 1.0], [1.0, 1.0], [0.0, 1.0]], (WINDOW, 1, 1)))
    assert describe(found, ["a", "b", "c"]) == (
        f"worker 1 on host b is 2.00 times as slow as the others' median over the last {WINDOW} steps, "
        "mostly in: waiting for data"
    )
