"""Early stopping and the budget of hours, across checkpoints, restarts and ranks."""

import json
import math
from dataclasses import asdict, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qdet.changes import changes
from qdet.checkpoint import TrainState
from qdet.config import flatten, override
from qdet.errors import ConfigError
from qdet.job import Job
from qdet.tracking import NullTracker
from qdet.training.loop import train
from qdet.training.reporting import LocalReporter, Run
from qdet.training.stopping.early_stopping import EarlyStopping
from qdet.training.stopping.time_budget import TimeBudget
from tests.support.ranks import checkpoint, tiny_job, train_all
from tests.support.simulated_ranks import on_simulated_ranks
from tests.support.small_checkpoints import state

APS = st.lists(st.sampled_from([math.nan, -1.0, 0.0, 0.1, 0.2, 0.2, 0.3]), max_size=12)


def through_json(kept: dict) -> TrainState:
    """State as a checkpoint brings it back."""
    return TrainState.from_json(json.loads(json.dumps(asdict(replace(state(), **kept)))))


@given(aps=APS, patience=st.integers(0, 4), saved_at=st.integers(0, 12))
def test_early_stopping_is_the_definition_also_across_a_resume(aps, patience, saved_at):
    rule = EarlyStopping(patience)
    for number, ap in enumerate(aps):
        rule.observe(10 * (number + 1), {"val/AP": ap})
        if number == saved_at:
            saved, rule = through_json(dict(rule.state())), EarlyStopping(patience)
            rule.restore(saved)
        seen = [a for a in aps[: number + 1] if not math.isnan(a)]
        best = max(seen, default=None)
        first = next((i for i, a in enumerate(aps) if a == best), -1)
        stale = number - first
        assert (rule.best, rule.stale) == (best, stale)
        assert rule.best_step == 10 * (first + 1)
        assert rule.due == (0 < patience <= stale)


class Clock:
    """A clock that is set by hand."""

    def __init__(self, now=1000.0):
        self.now = now

    def __call__(self):
        return self.now


LAUNCH = st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=1, max_size=4)


@given(launches=st.lists(LAUNCH, max_size=4), pause=st.integers(1, 1000))
def test_time_adds_up_over_restarts_and_launches_but_not_between_them(launches, pause):
    """Each launch has attempts: seconds to a checkpoint, then seconds that are lost with the attempt."""
    clock, saved, total = Clock(), None, 0.0
    for attempts in launches:
        clock.now += pause
        launched = clock.now
        for kept, lost in attempts:
            budget = TimeBudget(None, main=True, launched=launched, clock=clock)
            if saved is not None:
                budget.restore(saved)
            clock.now += kept
            saved = through_json(dict(budget.state()))
            assert budget.seconds == pytest.approx(total + clock.now - launched)
            clock.now += lost
        total += clock.now - attempts[-1][1] - launched  # what the last checkpoint of the launch recorded
    assert saved is None or saved.seconds == pytest.approx(total)


def test_all_ranks_go_by_the_clock_of_rank_0():
    def steps(world):
        clock = Clock(0.0)
        budget = TimeBudget(1.0, main=world.main, launched=0.0, clock=clock)
        found = []
        for seconds in (10, 3599, 3600, 3601):
            clock.now = seconds if world.main else 1e9
            budget.reduced(world.sum(*budget.local()))
            found.append(budget.spent)
        return found

    assert on_simulated_ranks(3, steps) == [[False, False, True, True]] * 3


def test_a_run_that_stops_early_ends_as_others_do_and_stays_ended(demo_shards, tmp_path, capfd):
    """With a learning rate of next to nothing the first of its evaluations stays the best."""
    settings = {
        "train.steps": 60, "train.eval_every": 1, "train.early_stopping": 2, "optim.lr": 1e-12,
        "optim.ema_decay": 0.0,
    }  # fmt: skip
    job = tiny_job(demo_shards, **settings)
    points = train_all(1, {"run": job}, tmp_path)["run"]
    evaluated = [step for step in sorted(points) if "val/AP" in points[step]]
    assert evaluated == [6, 12, 18]  # 48 images in batches of 8
    assert "stopped early: no better val/AP in 2 evaluations" in capfd.readouterr().out
    saved = checkpoint(tmp_path, "run", 18)
    assert (saved.state.best_step, saved.state.stale_evaluations) == (6, 2)
    assert saved.manifest.metrics["val/AP"] == points[18]["val/AP"]
    again = train(job, run=Run("run", str(tmp_path)), reporter=LocalReporter(), tracker=NullTracker())
    assert (again.step, again.stopped) == (18, False)
    assert again.metrics["val/AP"] == points[18]["val/AP"]
    patient = override(job, {"train.early_stopping": 3})
    assert changes(json.loads(json.dumps(flatten(job))), patient).refused == ()
    more = train(patient, run=Run("run", str(tmp_path)), reporter=LocalReporter(), tracker=NullTracker())
    assert more.step == 24


def test_a_run_out_of_time_stops_with_a_checkpoint_and_goes_on_with_more(demo_shards, tmp_path):
    job = tiny_job(demo_shards, **{"train.steps": 3, "train.hours": 1e-9})
    run = Run("run", str(tmp_path))
    result = train(job, run=run, reporter=LocalReporter(), tracker=NullTracker())
    assert (result.step, result.stopped) == (1, True)
    assert result.why == "--train.hours 1e-09 is used up; give more, such as --train.hours 2e-09"
    assert 0 < checkpoint(tmp_path, "run", 1).state.seconds < 300
    longer = override(job, {"train.hours": 5.0})
    assert train(longer, run=run, reporter=LocalReporter(), tracker=NullTracker()).step == 3


def test_a_run_that_pauses_after_an_epoch_is_the_run_that_never_paused(demo_shards, tmp_path):
    job = tiny_job(demo_shards, **{"train.steps": 12, "train.eval_every": 1, "train.keep_best": 0})

    def go(name: str, pause: int | None):
        paused = override(job, {"train.pause_after": pause})
        return train(paused, run=Run(name, str(tmp_path)), reporter=LocalReporter(), tracker=NullTracker())

    first = go("run", 1)
    assert (first.step, first.steps, first.stopped) == (6, 12, True)
    assert first.why.startswith("--train.pause-after 1 is reached; give a later one")
    assert checkpoint(tmp_path, "run", 6).manifest.metrics["val/AP"] == first.metrics["val/AP"]
    again = go("run", 1)
    assert (again.step, again.stopped, again.metrics) == (6, True, {})
    last, whole = go("run", 2), go("whole", None)
    assert (last.step, last.stopped) == (whole.step, whole.stopped) == (12, False)
    assert last.metrics == whole.metrics
    ours, theirs = (checkpoint(tmp_path, name, 12).all("weights") for name in ("run", "whole"))
    ours, theirs = dict(ours), dict(theirs)
    assert ours.keys() == theirs.keys()
    assert all(ours[name].equal(theirs[name]) for name in ours)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"train.pause_after": 0}, "--train.pause-after must be at least 1"),
        ({"train.hours": 0.0}, "--train.hours must be above 0"),
        ({"train.early_stopping": -1}, "--train.early-stopping must be 0"),
        ({"train.early_stopping": 3, "train.eval_every": 0}, "give --train.eval-every 1 or more"),
    ],
)
def test_settings_that_would_never_stop_are_refused(given, said):
    with pytest.raises(ConfigError, match=said):
        override(Job(name="x"), given)
