"""What settings explain: recovered where it was planted, and as other formulas have it."""

import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kruskal

from qdet.job import Sweep
from qdet.launching.runs.sweeps.curves import Curve, compared_epoch
from qdet.launching.runs.sweeps.importance import explain_by_options, explain_by_range, rank_settings
from qdet.search import Choice, LogUniform, When

SCORES = st.lists(st.integers(0, 9).map(float), min_size=4, max_size=20)


@given(st.data(), SCORES)
def test_options_explain_the_epsilon_squared_of_a_kruskal_wallis_test(data, scores):
    options = data.draw(st.lists(st.sampled_from("abc"), min_size=len(scores), max_size=len(scores)))
    groups = [[s for s, one in zip(scores, options, strict=True) if one == name] for name in set(options)]
    found = explain_by_options(options, scores)
    if len(groups) == 1 or len(set(scores)) == 1 or len(scores) - len(groups) < 2:
        assert found is None
    else:
        squared = (kruskal(*groups).statistic - len(groups) + 1) / (len(scores) - len(groups))
        assert found == pytest.approx(max(0.0, squared), abs=1e-9)


@given(st.data(), SCORES)
def test_a_range_explains_what_a_parabola_through_the_ranks_does(data, scores):
    values = data.draw(st.permutations(range(len(scores))))
    found = explain_by_range([math.exp(value) for value in values], scores)
    if len(scores) < 5 or len(set(scores)) == 1:
        assert found is None
        return
    ranks = [sum(other < one for other in scores) + scores.count(one) / 2 for one in scores]
    left = np.polyfit(values, ranks, 2, full=True)[1]
    rest = (float(left[0]) if len(left) else 0.0) / (len(ranks) - 3)
    assert found == pytest.approx(max(0.0, 1 - rest / np.var(ranks, ddof=1)), abs=1e-6)


@given(st.permutations(range(9)), st.lists(st.floats(0, 1), min_size=9, max_size=9))
def test_only_the_order_counts(values, scores):
    plain, stretched = list(map(float, values)), [math.exp(value) for value in values]
    doubled = [2 * score for score in scores]  # exact
    assert explain_by_range(plain, scores) == explain_by_range(stretched, doubled)


def test_the_setting_that_matters_comes_first_and_one_that_does_not_explains_little():
    space = {"optim.lr": LogUniform(1e-5, 1e-3), "detector.queries": Choice((20, 30))}
    rng, noise = random.Random(0), []
    for _ in range(50):
        curves = []
        for number in range(12):
            lr = 10 ** rng.uniform(-5, -3)
            settings = {"optim.lr": lr, "detector.queries": rng.choice((20, 30))}
            value = 0.5 - (math.log10(lr) + 4) ** 2 / 4  # best in the middle of the range
            values = {1: value, 3: rng.random()} if number % 3 == 0 else {1: value}
            curves.append(Curve(trial=f"t{number:02d}", settings=settings, state="finished", values=values))
        assert compared_epoch(curves) == 1
        first, second = rank_settings(curves, Sweep(space=space))
        assert first.path == "optim.lr"
        assert first.share > 0.6
        noise.append(second.share or 0.0)
    assert sum(noise) / len(noise) < 0.1


def test_a_conditional_setting_is_judged_by_the_trials_that_had_it():
    space = {"kind": Choice(("a", "b")), "optim.lr": When("kind", ("a",), LogUniform(1e-5, 1e-3))}
    curves = [
        Curve(trial=f"t{n}", settings={"kind": "a", "optim.lr": 10**-n}, state="finished", values={2: n / 9})
        for n in range(3, 6)
    ] + [Curve(trial="t9", settings={"kind": "b"}, state="stopped early", values={1: 0.9, 2: 0.95})]
    found = {one.path: one for one in rank_settings(curves, Sweep(space=space))}
    assert found["optim.lr"].trials == 3
    assert found["optim.lr"].share is None
    assert found["kind"].trials == 4


def test_trials_without_a_common_epoch_tell_nothing():
    curves = [
        Curve(trial=f"t{n}", settings={"detector.queries": 20}, state="finished", values={n: 0.5})
        for n in range(1, 9)
    ]
    assert compared_epoch(curves) == 0
    (found,) = rank_settings(curves, Sweep(space={"detector.queries": Choice((20, 30))}))
    assert (found.share, found.trials) == (None, 0)
