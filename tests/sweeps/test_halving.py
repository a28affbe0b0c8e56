"""Early stopping against a literal reading of asynchronous successive halving."""

import math
import random

from hypothesis import given
from hypothesis import strategies as st

from qdet.launching.runs.sweeps.halving import Halving, NoHalving, Report

values = st.one_of(st.sampled_from([0.0, 0.1, 0.2]), st.floats(0, 1), st.just(math.nan))
orders = st.lists(st.integers(1, 6), max_size=60)


def _reports(order: list[int], found: list[float]) -> list[Report]:
    """Return reports of trials in the order in which they come, each of the trial's next epoch."""
    epochs: dict[int, int] = {}
    reports = []
    for trial, value in zip(order, found, strict=False):
        epochs[trial] = epochs.get(trial, 0) + 1
        reports.append(Report(trial, epochs[trial], value))
    return reports


def literal_asha(reports: list[Report], *, grace: int, maximise: bool) -> list[bool]:
    """For every report, sort those of its rung so far, and see whether it is in the top third."""
    rungs = [grace * 3**k for k in range(20)]
    decisions = []
    for i, report in enumerate(reports):
        if report.epoch not in rungs:
            decisions.append(False)
            continue
        here = [r for r in reports[: i + 1] if r.epoch == report.epoch]
        scores = sorted(
            (-math.inf if math.isnan(r.value) else r.value if maximise else -r.value for r in here),
            reverse=True,
        )
        mine = -math.inf if math.isnan(report.value) else report.value if maximise else -report.value
        top = scores[: max(1, int(len(here) / 3))]
        decisions.append(mine < top[-1])
    return decisions


@given(orders, st.lists(values, min_size=60, max_size=60), st.integers(1, 3), st.booleans())
def test_decisions_are_those_of_the_literal_reading(order, found, grace, maximise):
    reports = _reports(order, found)
    halving = Halving(grace, maximise=maximise)
    assert [halving.stops(report) for report in reports] == literal_asha(
        reports, grace=grace, maximise=maximise
    )


@given(orders, st.lists(values, min_size=60, max_size=60))
def test_reports_that_come_again_change_nothing(order, found):
    reports = _reports(order, found)
    once, twice = Halving(1), Halving(1)
    first = [once.stops(report) for report in reports]
    assert [[twice.stops(report), twice.stops(report)][0] for report in reports] == first
    assert once == twice


def test_a_report_that_jumps_over_rungs_is_judged_at_the_highest():
    halving = Halving(1)
    assert not halving.stops(Report(1, 4, 0.5))
    assert halving.rungs == {3: {1: 0.5}}
    assert halving.stops(Report(2, 5, 0.4))


def test_without_a_scheduler_nothing_stops():
    assert not any(NoHalving().stops(Report(trial, 9, 0.0)) for trial in range(9))


def test_twelve_trials_one_after_another_mostly_take_less_than_half_of_all_epochs():
    """Over random orders of trials of 27 epochs that are as good in the first epoch as in the last."""
    shares = []
    for seed in range(200):
        quality = list(range(12))
        random.Random(seed).shuffle(quality)
        halving, epochs = Halving(1), 0
        for trial, value in enumerate(quality):
            stopped = False
            for epoch in range(1, 28):
                epochs += 1
                stopped = stopped or halving.stops(Report(trial, epoch, float(value)))
                if stopped:
                    break
            assert value != 11 or not stopped  # the best is never stopped
        shares.append(epochs / (27 * 12))
    assert sum(shares) / len(shares) < 0.35
    assert sorted(shares)[160] < 0.5  # in four of five orders
