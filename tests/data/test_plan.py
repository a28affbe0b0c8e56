"""Properties that a plan has for any dataset, seed and batch size."""

import hashlib
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qdet.data.augment import AugmentConfig
from qdet.data.plan import epoch as module
from qdet.data.plan import shuffle
from qdet.data.plan.epoch import EpochPlan, plan_evaluation, steps_per_epoch
from qdet.errors import ConfigError

AUGMENT = AugmentConfig(crop=True)
TAILS = st.sampled_from(["drop", "wrap"])


@st.composite
def datasets(draw):
    n = draw(st.integers(1, 400))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    return rng.integers(100, 700, (n, 2))


@pytest.fixture
def small_scales(monkeypatch):
    """Runs, blocks and windows so small that a few hundred samples have several of each."""
    monkeypatch.setattr(shuffle, "BLOCK", 16)
    monkeypatch.setattr(shuffle, "BLOCKS", 3)
    monkeypatch.setattr(module, "WINDOW", 5)


EXAMPLES = (datasets(), st.integers(0, 2**63), st.integers(0, 9), st.integers(1, 24), TAILS, st.booleans())


@settings(deadline=None, max_examples=60)
@given(*EXAMPLES)
def test_every_sample_is_read_as_often_as_the_tail_says(sizes, seed, epoch, global_batch, tail, by_size):
    check_plan(sizes, seed, epoch, global_batch, tail, by_size)


# The fixture only sets constants, the same for every example.
@pytest.mark.usefixtures("small_scales")
@settings(deadline=None, max_examples=60)
@given(*EXAMPLES)
def test_every_sample_is_read_as_often_over_many_windows(sizes, seed, epoch, global_batch, tail, by_size):
    check_plan(sizes, seed, epoch, global_batch, tail, by_size)


def check_plan(sizes, seed, epoch, global_batch, tail, by_size):
    n = len(sizes)
    which = {"seed": seed, "epoch": epoch, "global_batch": global_batch, "tail": tail, "by_size": by_size}
    if n < global_batch and tail == "drop":
        with pytest.raises(ConfigError, match=r"--train\.batch-size"):
            EpochPlan(sizes, AUGMENT, **which)
        return
    epoch_plan = EpochPlan(sizes, AUGMENT, **which)
    plan = epoch_plan.whole()
    steps = n // global_batch if tail == "drop" else -(-n // global_batch)
    assert plan.rows.shape == (steps, global_batch)
    assert steps == steps_per_epoch(n, global_batch, tail)
    expected = Counter(range(n))
    expected.subtract(epoch_plan.dropped.tolist())
    expected.update(epoch_plan.wrapped.tolist())
    assert Counter(plan.rows.ravel().tolist()) == +expected
    assert len(epoch_plan.dropped) == (n % global_batch if tail == "drop" else 0)
    assert len(epoch_plan.wrapped) == (-n % global_batch if tail == "wrap" else 0)
    if n >= global_batch:
        assert all(len(set(batch)) == global_batch for batch in plan.rows.tolist())
    assert (plan.padded_hw % 32 == 0).all()
    largest = plan.views.final_hw[plan.rows].max(axis=1)
    assert (plan.padded_hw >= largest).all()
    assert (plan.padded_hw - largest < 32).all()
    again = EpochPlan(sizes, AUGMENT, **which)
    for number in reversed(range(again.windows)):  # each by itself, in any order
        window = again.window(number)
        assert {again.window_of(step) for step in again.span(number)} == {number}
        assert range(window.first, window.first + len(window.rows)) == again.span(number)
        np.testing.assert_array_equal(plan.rows[window.first :][: len(window.rows)], window.rows)
        np.testing.assert_array_equal(plan.padded_hw[window.first :][: len(window.rows)], window.padded_hw)


def test_epochs_seeds_and_dropped_samples_differ():
    sizes = np.full((101, 2), 300)
    plans = [EpochPlan(sizes, AUGMENT, seed=s, epoch=e, global_batch=10) for s, e in ((0, 0), (0, 1), (1, 0))]
    assert len({plan.whole().rows.tobytes() for plan in plans}) == 3
    assert len({tuple(plan.dropped.tolist()) for plan in plans}) == 3


def test_a_window_reads_from_few_places_and_batches_are_mixed():
    n = shuffle.BLOCK * shuffle.BLOCKS * 4
    plan = EpochPlan(np.full((n, 2), 300), AUGMENT, seed=0, epoch=0, global_batch=16).whole()
    runs = plan.rows // shuffle.BLOCK
    steps = shuffle.BLOCK * shuffle.BLOCKS // 16
    assert steps % module.WINDOW == 0
    for first in range(0, len(runs), steps):
        assert len(np.unique(runs[first : first + steps])) == shuffle.BLOCKS
    assert np.mean([len(np.unique(batch)) for batch in runs]) > 5


@pytest.mark.parametrize("by_size", [True, False])
def test_batch_order_is_independent_of_image_shape(by_size):
    """However batches are made, every stretch of an epoch has the shapes of the whole."""
    sizes = np.random.default_rng(0).integers(300, 640, (8192, 2))
    plan = EpochPlan(sizes, AUGMENT, seed=0, epoch=0, global_batch=16, by_size=by_size).whole()
    h, w = plan.views.final_hw[plan.rows].transpose(2, 0, 1)
    for fact in (h * w, w / h):
        stretches = fact.reshape(4, -1).mean(axis=1)
        assert abs(stretches / fact.mean() - 1).max() < 0.12  # four times what chance leaves of 128 batches


def test_views_do_not_depend_on_how_batches_are_made():
    sizes = np.random.default_rng(0).integers(300, 640, (500, 2))
    plans = [
        EpochPlan(sizes, AUGMENT, seed=3, epoch=1, global_batch=g, tail=t, by_size=b).whole()
        for g, t, b in ((8, "drop", True), (48, "wrap", True), (7, "drop", False))
    ]
    for row in range(500):
        assert len({plan.views.of(row) for plan in plans}) == 1


@pytest.mark.parametrize("global_batch", [16, 64])
def test_batches_of_like_shapes_waste_little(global_batch):
    # What half of COCO's images measure, and their transposes, spread by a tenth.
    rng = np.random.default_rng(0)
    sizes = np.where(rng.random((30_000, 1)) < 0.7, [480, 640], [640, 480])
    sizes = (sizes * rng.uniform(0.9, 1.0, sizes.shape)).astype(np.int64)

    def waste(by_size):
        plan = EpochPlan(sizes, AUGMENT, seed=0, epoch=0, global_batch=global_batch, by_size=by_size).whole()
        padded = plan.padded_hw.prod(axis=1).sum() * global_batch
        return padded / plan.views.final_hw[plan.rows].prod(axis=-1).sum()

    assert waste(by_size=True) < 1.06
    assert waste(by_size=False) > 1.8


def test_a_training_set_without_images_is_refused():
    for tail in ("drop", "wrap"):
        with pytest.raises(ConfigError, match=r"no images; give another --data\.train"):
            steps_per_epoch(0, 4, tail)


@settings(deadline=None, max_examples=40)
@given(datasets(), st.integers(1, 9))
def test_evaluation_has_every_sample_once_and_fills_the_last_batch(sizes, batch_size):
    plan = plan_evaluation(sizes, AUGMENT, batch_size=batch_size)
    n = len(sizes)
    assert sorted(plan.rows.ravel()[:n].tolist()) == list(range(n))
    assert plan.rows.size - n < batch_size
    assert len(set(plan.rows.ravel()[n - 1 :].tolist()) - set(plan.rows[-1].tolist())) == 0


def test_the_order_equals_the_recorded_one():
    """A resumed run keeps its order: a change, here or by another numpy, fails this test."""
    plan = EpochPlan(np.arange(600, 1400).reshape(-1, 2), AUGMENT, seed=7, epoch=3, global_batch=8).whole()
    assert plan.rows[0].tolist() == [217, 294, 319, 246, 394, 311, 251, 85]
    assert plan.padded_hw[:3].tolist() == [[800, 768], [672, 672], [672, 672]]


DIGESTS = {1: "64a76e6ba79ba569b5b9ddefee728e4d72da80276e38138dd42a9bccd23e623d"}
"""sha256 of a plan of fixed sizes, seed and epoch, by the version of the algorithm."""


def test_a_changed_order_needs_a_new_plan_version():
    """Runs in progress depend on the plan: to change it, raise PLAN_VERSION and add a digest here."""
    sizes = np.stack([np.arange(3000) * 7 % 400 + 200, np.arange(3000) * 11 % 300 + 250], axis=1)
    augment = AugmentConfig(crop=True, photometric=True, mosaic=0.3, mixup=0.3)
    plan = EpochPlan(sizes, augment, seed=5, epoch=2, global_batch=16, tail="wrap").whole()
    content = hashlib.sha256(np.concatenate([plan.rows.ravel(), plan.padded_hw.ravel()]).tobytes())
    content.update("".join(str(plan.views.of(row)) for row in range(0, 3000, 97)).encode())
    assert content.hexdigest() == DIGESTS[module.PLAN_VERSION]
