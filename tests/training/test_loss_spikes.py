"""Loss spikes against a literal reading of the definition, and on curves that have none."""

import statistics

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from qdet.training.health.loss_spikes import ENOUGH, FAR, HISTORY, LossSpikes


def literal(losses):
    """Standard deviations of the last loss above those before it."""
    before = losses[-HISTORY - 1 : -1]
    median = statistics.median(before)
    spread = 1.4826 * statistics.median(abs(x - median) for x in before)
    return (losses[-1] - median) / max(spread, 0.01 * abs(median), 1e-12)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 100), min_size=ENOUGH + 1, max_size=2 * HISTORY))
def test_a_spike_is_what_the_definition_says(losses):
    spikes = LossSpikes()
    found = [spikes.add(loss) for loss in losses]
    assert found[:ENOUGH] == [None] * ENOUGH
    expected = literal(losses)
    if expected >= FAR * 1.000001:
        assert found[-1] is not None
        assert abs(found[-1] - expected) <= 1e-6 * expected
    elif expected < FAR * 0.999999:
        assert found[-1] is None


def test_a_noisy_falling_curve_has_no_spike_until_one_comes():
    rng, spikes = np.random.default_rng(0), LossSpikes()
    curve = 2 + 20 * np.exp(-np.arange(3000) / 500) * np.exp(rng.normal(0, 0.1, 3000))
    assert not [loss for loss in curve if spikes.add(loss) is not None]
    assert spikes.add(30.0) is not None
    assert spikes.add(2.0) is None


def test_a_flat_curve_has_no_spikes_in_its_last_digits():
    spikes = LossSpikes()
    assert not [i for i in range(200) if spikes.add(3 + 1e-7 * (i % 7)) is not None]


@given(st.lists(st.floats(0, 100), min_size=2, max_size=3 * HISTORY), st.data())
@settings(max_examples=50, deadline=None)
def test_resuming_from_the_last_losses_changes_nothing(losses, data):
    at = data.draw(st.integers(0, len(losses)))
    whole, first = LossSpikes(), LossSpikes()
    expected = [whole.add(loss) for loss in losses]
    found = [first.add(loss) for loss in losses[:at]]
    second = LossSpikes(first.last)
    assert found + [second.add(loss) for loss in losses[at:]] == expected
