"""The exchange of a step: one collective whatever is exchanged, and every observer gets its own totals."""

import math
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qdet.checkpoint import TrainState
from qdet.config import override
from qdet.data.loading.substitutes import BadBudget
from qdet.errors import DataError
from qdet.job import Job
from qdet.training.exchange import StepExchange, sum_over_ranks
from qdet.training.observer import Observer
from qdet.types import Batch, Substitute, Targets
from tests.support.simulated_ranks import on_simulated_ranks
from tests.support.small_checkpoints import state as saved_state

OF_THE_CLOCK = ("seconds", "seconds_before", "launched")
"""Fields that no two launches have in common."""


class Scripted(Observer):
    """Contributes given values, step by step, and keeps the totals."""

    def __init__(self, steps):
        self._steps = iter(steps)
        self.totals = []

    def local(self):
        return next(self._steps)

    def reduced(self, totals):
        self.totals.append(list(totals))


@settings(max_examples=50, deadline=None)
@given(
    ranks=st.integers(1, 5),
    sizes=st.lists(st.integers(0, 4), max_size=5),
    steps=st.integers(1, 3),
    data=st.data(),
)
def test_any_observers_on_any_ranks_get_their_own_totals_from_one_collective_a_step(
    ranks, sizes, steps, data
):
    whole = st.integers(-(10**6), 10**6)
    script = [  # rank, observer, step, value
        [[data.draw(st.lists(whole, min_size=n, max_size=n)) for _ in range(steps)] for n in sizes]
        for _ in range(ranks)
    ]

    def exchange_all(world):
        observers = [Scripted(of_steps) for of_steps in script[world.rank]]
        for _ in range(steps):
            sum_over_ranks(observers, world)
        return [observer.totals for observer in observers], world.calls

    expected = [
        [[sum(script[r][o][step][i] for r in range(ranks)) for i in range(n)] for step in range(steps)]
        for o, n in enumerate(sizes)
    ]
    assert on_simulated_ranks(ranks, exchange_all) == [(expected, ["sum"] * steps)] * ranks


def exchange_of(world, *, zero=1, max_bad=2, stop=False) -> StepExchange:
    job = override(Job(name="x"), {"train.zero": zero})
    made = StepExchange(job, world, unreadable=BadBudget(max_bad), stop_requested=lambda: stop)
    world.calls.clear()
    return made


def batch(*counts, missing=()):
    """A batch with so many objects in each of its images; images `missing` could not be read."""
    images, objects = len(counts), sum(counts)
    return Batch(
        images=torch.zeros(images, 3, 4, 4, dtype=torch.uint8),
        sizes_hw=torch.full((images, 2), 4),
        original_hw=torch.full((images, 2), 4),
        image_ids=torch.arange(images),
        valid=torch.ones(images, dtype=torch.bool),
        targets=Targets(torch.zeros(objects, 4), torch.zeros(objects, dtype=torch.int64), counts),
        substitutes=tuple(Substitute(planned_id=i, image_id=1, reason=f"image {i} is torn") for i in missing),
    )


def make_steps(made, steps, *, loss=lambda step: 1.0, waited=0.0, forward=1.0):
    """Make the exchanges of the steps with these numbers, as `StepMaker` does."""
    for step in steps:
        made.divisors.observe([batch(1)])
        made.sum_over_ranks()
        made.loss.observe(step, [loss(step)])
        made.times.observe(waited, forward)
    return made


def test_losses_are_divided_by_the_objects_of_the_global_batch():
    shares = [[batch(3, 2), batch(1, 0)], [batch(0, 0), batch(4, 1)]]

    def divide(world):
        made = exchange_of(world)
        made.divisors.observe(shares[world.rank])
        made.sum_over_ranks()
        return made.divisors.arguments, world.calls

    # 11 objects; gradients are averaged over 2 ranks and 2 micro-batches.
    assert on_simulated_ranks(2, divide) == [({"normalizer": 11 / 4, "matched": 11 / 4}, ["sum"])] * 2


def test_a_batch_without_objects_divides_by_one():
    def divide(world):
        made = exchange_of(world)
        made.divisors.observe([batch(0, 0)])
        made.sum_over_ranks()
        return made.divisors.arguments

    assert on_simulated_ranks(2, divide) == [{"normalizer": 1 / 2, "matched": 0.0}] * 2


def test_all_ranks_agree_to_stop_when_one_is_asked_and_stay_so():
    def stop(world):
        asked, agreed = iter([False, world.rank == 1, False]), []
        job = Job(name="x")
        made = StepExchange(job, world, unreadable=BadBudget(0), stop_requested=lambda: next(asked))
        for _ in range(3):
            make_steps(made, [1])
            agreed.append(made.stop.agreed)
        return agreed

    assert on_simulated_ranks(3, stop) == [[False, True, True]] * 3


@pytest.mark.parametrize("max_bad", [1, 2])
def test_unreadable_images_of_all_ranks_count_against_one_budget(max_bad):
    def read(world):
        budget = BadBudget(max_bad)
        made = StepExchange(Job(name="x"), world, unreadable=budget, stop_requested=lambda: False)
        world.calls.clear()
        if world.rank:
            budget.record(batch(1, missing=[10 + world.rank]))
        make_steps(made, [1, 2])
        return made.state()["unreadable"], world.calls

    found = on_simulated_ranks(3, read)
    if max_bad == 1:
        assert [type(error) for error in found] == [DataError] * 3
        assert all(name in str(error) for error in found for name in ("image 11", "image 12"))
    else:
        calls = ["sum", "gather", "broadcast", "sum"]
        reasons = {11: "image 11 is torn", 12: "image 12 is torn"}
        # The state adds the loss of the last step up, in a collective of its own.
        assert found == [(reasons, [*calls, "sum"])] * 3


def test_a_slow_forward_pass_is_reported_by_rank_0_alone(capsys):
    forward = [1.0, 1.0, 1.4]
    on_simulated_ranks(3, lambda w: make_steps(exchange_of(w), range(50), forward=forward[w.rank]))
    said = capsys.readouterr().out
    assert said.count("\n") == 1
    assert "worker 2 on host" in said
    assert "is 1.40 times as slow" in said
    assert "forward pass" in said


@pytest.mark.parametrize("zero", [1, 3])
def test_a_slow_reader_is_reported(capsys, zero):
    # Under ZeRO-3 the forward passes of the others wait for the late one: all of them end at the same time.
    forward, waited = ([1.0, 1.5, 1.5] if zero == 3 else [1.0, 1.0, 1.0]), [0.5, 0.0, 0.0]

    def steps(world):
        made = exchange_of(world, zero=zero)
        make_steps(made, range(50), waited=waited[world.rank], forward=forward[world.rank])

    on_simulated_ranks(3, steps)
    said = capsys.readouterr().out
    assert "worker 0 on host" in said
    assert "is 1.50 times as slow" in said
    assert "waiting for data" in said


def test_a_spike_of_the_mean_loss_is_reported_and_counted_once(capsys):
    noise = np.random.default_rng(0).normal(0, 0.1, 81)

    def steps(world):
        made = exchange_of(world)
        # The ranks' losses differ by 20, their mean does not; both double at step 60.
        side = 10 if world.rank else -10
        make_steps(made, range(1, 81), loss=lambda step: (2 if step == 60 else 1) * (20 + noise[step]) + side)
        return [made.metrics()["train/spikes"] for _ in range(2)]

    assert on_simulated_ranks(2, steps) == [[1.0, 0.0]] * 2
    said = capsys.readouterr().out
    assert said.count("\n") == 1
    assert said.startswith("the loss of step 60 is ")


def test_a_skipped_step_is_no_spike_and_hides_none(capsys):
    def steps(world):
        made = exchange_of(world)
        losses = {step: math.nan if step % 7 == 0 else 5.0 for step in range(1, 81)} | {76: 50.0}
        return make_steps(made, range(1, 81), loss=losses.__getitem__).metrics()["train/spikes"]

    assert on_simulated_ranks(2, steps) == [1.0] * 2
    assert capsys.readouterr().out.startswith("the loss of step 76 is ")


def test_a_resumed_training_observes_what_an_undisturbed_one_does():
    def loss(step):
        return 5 + math.sin(step) / 10 + (40 if step in (37, 50) else 0)

    def steps(world, resume):
        made = exchange_of(world)
        seen = []
        for first, last in ((1, resume), (resume + 1, 60)):
            for step in range(first, last + 1):
                make_steps(made, [step], loss=loss)
                if step % 20 == 3:
                    made.skipped.record(step, "the cause")
            seen.append(made.metrics()["train/spikes"])
            before = made.state()
            assert set(before) <= {field.name for field in fields(TrainState)}
            made = exchange_of(world)
            made.restore(replace(saved_state(), **before))
            before = {f: value for f, value in before.items() if f not in OF_THE_CLOCK}
            assert before.items() <= made.state().items()
        return sum(seen), before

    def both(world):
        return [steps(world, resume) for resume in (25, 60)]

    for interrupted, whole in on_simulated_ranks(2, both):
        assert interrupted == whole
        assert whole[0] == 2
        assert whole[1]["skipped"] == (3, 23, 43)
        assert len(whole[1]["losses"]) == 60


def test_an_error_of_one_observer_is_raised_on_every_rank():
    class Refusing(Observer):
        def local(self):
            return (1.0,)

        def reduced(self, totals):
            raise DataError(f"{totals[0]:.0f} ranks")

    found = on_simulated_ranks(3, lambda world: sum_over_ranks([Refusing()], world))
    assert [str(error) for error in found] == ["3 ranks"] * 3
