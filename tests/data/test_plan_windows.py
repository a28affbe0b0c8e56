"""Windows of a plan, each computed alone, against the plan of a whole epoch computed at once."""

import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qdet.data.augment import AugmentConfig
from qdet.data.plan import epoch as module
from qdet.data.plan import shuffle
from qdet.data.plan.epoch import EpochPlan
from qdet.data.plan.order import Order
from qdet.data.plan.random_rows import RandomRows
from qdet.data.plan.recent import Recent
from qdet.data.shards.index import COLUMNS, Index
from tests.support.literal_plan import literal_plan

CROPPED = AugmentConfig(crop=True)
ALL = AugmentConfig(crop=True, photometric=True, mosaic=0.3, mixup=0.3)
JITTERED = AugmentConfig(scale_jitter=(0.1, 2.0), mixup=0.2)


def check_windows(plan, literal):
    """Every window has the literal plan's batches, and sees their samples as it does."""
    geometry = ("resized_hw", "window_tlhw", "cropped", "final_hw", "flip")
    for number in reversed(range(plan.windows)):
        window, span = plan.window(number), plan.span(number)
        np.testing.assert_array_equal(window.rows, literal.rows[span.start : span.stop])
        np.testing.assert_array_equal(window.padded_hw, literal.padded_hw[span.start : span.stop])
        views = window.views
        assert set(views.rows.tolist()) == set(window.rows.ravel().tolist())
        for name in geometry:
            np.testing.assert_array_equal(getattr(views, name), getattr(literal.geometry, name)[views.rows])
        if literal.distortion is not None:
            np.testing.assert_array_equal(views.distortion, literal.distortion[views.rows])
        if literal.partners is not None:
            for name in ("mosaic", "mixup", "partners"):
                np.testing.assert_array_equal(
                    getattr(views.mixtures, name), getattr(literal, name)[views.rows]
                )
    np.testing.assert_array_equal(plan.dropped, literal.dropped)
    np.testing.assert_array_equal(plan.wrapped, literal.wrapped)


@pytest.mark.parametrize(
    ("seed", "epoch", "batch", "tail"), [(0, 0, 16, "drop"), (3, 2, 64, "wrap"), (2**63, 11, 1024, "wrap")]
)
def test_200_thousand_images_are_planned_as_a_whole_epoch_was(seed, epoch, batch, tail):
    sizes = np.random.default_rng(seed % 97).integers(300, 641, (200_000, 2))
    which = {"seed": seed, "epoch": epoch, "global_batch": batch, "tail": tail}
    check_windows(EpochPlan(sizes, CROPPED, **which), literal_plan(sizes, CROPPED, **which))


@pytest.mark.parametrize("augment", [ALL, JITTERED])
def test_mixtures_and_colours_are_those_of_a_whole_epoch(augment):
    sizes = np.random.default_rng(1).integers(50, 900, (40_123, 2))
    which = {"seed": 5, "epoch": 1, "global_batch": 24, "tail": "wrap"}
    check_windows(EpochPlan(sizes, augment, **which), literal_plan(sizes, augment, **which))


@pytest.fixture
def small_scales(monkeypatch):
    """Blocks, groups and windows so small that a few hundred samples have several of each."""
    monkeypatch.setattr(shuffle, "BLOCK", 16)
    monkeypatch.setattr(shuffle, "BLOCKS", 3)
    monkeypatch.setattr(module, "WINDOW", 5)


# The fixture only sets constants, the same for every example.
@pytest.mark.usefixtures("small_scales")
@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 400), st.integers(0, 2**64 - 1), st.integers(0, 99), st.integers(1, 24),
    st.sampled_from(["drop", "wrap"]), st.booleans(), st.sampled_from([CROPPED, ALL]),
)  # fmt: skip
def test_any_dataset_is_planned_as_a_whole_epoch_was(n, seed, epoch, batch, tail, by_size, augment):
    if n < batch and tail == "drop":
        return
    sizes = np.random.default_rng(n).integers(100, 700, (n, 2))
    which = {"seed": seed, "epoch": epoch, "global_batch": batch, "tail": tail, "by_size": by_size}
    literal = literal_plan(sizes, augment, **which, block=16, blocks=3, longest=5)
    check_windows(EpochPlan(sizes, augment, **which), literal)


@settings(deadline=None)
@given(st.integers(0, 9), st.integers(1, 12), st.lists(st.integers(0, 6000), max_size=20), st.booleans())
def test_numbers_of_some_rows_are_those_drawn_in_one_call(before, each, rows, half):
    bits = np.random.Philox(key=7)
    chance = np.random.Generator(bits)
    chance.random(before)
    if half:
        chance.integers(0, 2**32, dtype=np.uint32)  # leaves half a word for the next number of 32 bits
    numbers = RandomRows(bits.state, each)
    whole = chance.random((6001, each))
    np.testing.assert_array_equal(numbers.at(np.array(rows, dtype=np.int64)), whole[rows])
    assert numbers.generator_at(6001).permutation(100).tolist() == chance.permutation(100).tolist()


class CountedSizes:
    """Sizes of a dataset that is nowhere, and which rows were asked for."""

    def __init__(self, n):
        self.n, self.asked = n, []

    def __len__(self):
        return self.n

    def __getitem__(self, rows):
        self.asked += rows.tolist()
        return np.stack([rows % 300 + 200, rows % 200 + 300], axis=1)


def order_of(n, batch):
    columns = {name: np.broadcast_to(np.full(1, 300, kind), n) for name, kind in COLUMNS.items()}
    return Order(index=Index(**columns), augment=CROPPED, batch_size=batch, seed=3)


def test_a_window_far_in_a_huge_dataset_reads_the_sizes_of_its_own_samples_alone():
    sizes = CountedSizes(50_000_000)
    plan = EpochPlan(sizes, CROPPED, seed=3, epoch=1, global_batch=64)
    assert sizes.asked == []
    window = plan.window(plan.window_of(400_000))
    assert sorted(sizes.asked) == sorted(window.rows.ravel().tolist())
    assert len(sizes.asked) <= 512 * 64


def test_a_step_is_the_same_by_itself_and_its_window_is_kept():
    order = order_of(5000, 8)
    for number, step in enumerate(order.steps(0, 1300)):
        alone = order.step(number)
        assert (
            (alone.place, alone.padded_hw) == (step.place, step.padded_hw) == (number % 625, step.padded_hw)
        )
        assert alone.plan is step.plan


def test_the_next_window_is_planned_by_a_thread_while_one_is_used(monkeypatch):
    threads, real = [], EpochPlan.window
    monkeypatch.setattr(
        EpochPlan, "window", lambda *a: (threads.append(threading.current_thread().name), real(*a))[1]
    )
    order = order_of(64 * 2048, 64)
    steps = order.steps(0, 2048)
    next(steps)
    until = time.monotonic() + 30
    while len(threads) < 2 and time.monotonic() < until:
        time.sleep(0.01)
    assert len(threads) == 2  # the first and the one after it, no more
    steps.close()
    assert all(name.startswith("qdet-plan") for name in threads)


def test_a_value_is_made_once_and_a_failure_is_made_again():
    recent, made = Recent(2), []

    def make(key):
        made.append(key)
        if made == ["a"]:
            raise ValueError("first")
        return key.upper()

    with pytest.raises(ValueError, match="first"):
        recent.get("a", lambda: make("a"))
    for key in ("a", "b", "a", "c", "a", "b"):
        assert recent.get(key, lambda key=key: make(key)) == key.upper()
    assert made == ["a", "a", "b", "c", "b"]
