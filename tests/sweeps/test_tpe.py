"""Optuna's estimator, asked from the record alone: the same record gives the same, and nothing twice."""

import json
import math
import random
import sys
from dataclasses import asdict, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qdet.errors import ConfigError
from qdet.job import Job, Sweep
from qdet.launching.runs.sweeps import tpe
from qdet.launching.runs.sweeps.course import Course
from qdet.launching.runs.sweeps.record import Entry, SweepFile, SweepStore, Trial
from qdet.launching.runs.sweeps.settings import as_json, decode, draw_settings
from qdet.search import Choice, Each, LogUniform, Uniform, When

SPACE = {
    "optim.lr": LogUniform(1e-5, 1e-1),
    "optim.schedule": Choice(("step", "cosine")),
    "optim.drop_epochs": When("optim.schedule", ("step",), Choice(((8, 11), (9, 11), (math.inf,)))),
    "optim.weight_decay": Uniform(0.0, 0.2),
}
SWEEP = Sweep(space=SPACE, search="tpe", trials=40)
FINITE = replace(SWEEP, space={"a": Choice((1, 2, 3)), "b": Choice(("x", "y", (1, 2)))}, trials=50)


def _trial(number: int, settings: dict, value: float | None, state: str = "finished") -> Trial:
    """A trial with one evaluation, as the record has it."""
    reports = () if value is None else (Entry(order=number, epoch=3, step=30, metrics={"val/AP": value}),)
    return Trial(number=number, settings=as_json(settings), state=state, reports=reports)  # type: ignore[arg-type]


def _quality(found: dict) -> float:
    """Best at a learning rate of 1e-3, with the cosine schedule."""
    return 1 - 0.2 * abs(math.log10(found["optim.lr"]) + 3) - 0.1 * (found["optim.schedule"] == "step")


def _record(count: int, seed: int = 0) -> dict[int, Trial]:
    drawn = {number: draw_settings(SWEEP, number, seed=seed) for number in range(1, count + 1)}
    states = ("finished", "finished", "stopped early", "failed", "running")
    rng = random.Random(seed)
    return {
        number: _trial(number, one, None if state == "running" else _quality(one), state)
        for number, one in drawn.items()
        for state in [rng.choice(states)]
    }


def test_the_first_trials_are_drawn_as_in_a_random_search():
    """Without Optuna, too."""
    trials: dict[int, Trial] = {}
    for number in range(1, tpe.STARTUP + 1):
        found = tpe.propose(SWEEP, trials, number, seed=3)
        assert found == draw_settings(SWEEP, number, seed=3)
        trials[number] = _trial(number, found, None, "running")


def test_a_finite_space_is_tried_once_and_no_point_twice():
    """Nothing has a result, so Optuna is not asked."""
    assert FINITE.runs == 9
    trials: dict[int, Trial] = {}
    for number in range(1, 10):
        trials[number] = _trial(number, tpe.propose(FINITE, trials, number, seed=0), None, "running")
    assert len({json.dumps(trial.settings) for trial in trials.values()}) == 9


def test_without_optuna_its_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ConfigError, match=r"pip install 'qdet\[sweep\]'"):
        tpe.require_optuna()


@pytest.mark.parametrize(
    ("sweep", "said"),
    [
        (
            replace(SWEEP, space={"train.zero": Each((0, 1))}),
            "--sweep.search tpe: of train.zero every option",
        ),
        (replace(SWEEP, scheduler="pbt"), "--sweep.search tpe learns from trials that have ended"),
    ],
)
def test_what_it_cannot_search_is_refused(sweep, said):
    with pytest.raises(ConfigError, match=said):
        sweep.check(Job(name="x"))


class TestWithOptuna:
    """Optuna is an extra."""

    @pytest.fixture(autouse=True)
    def _needs_optuna(self) -> None:
        pytest.importorskip("optuna", reason="the extra `sweep` is not installed")

    @settings(max_examples=10, deadline=None)
    @given(count=st.integers(14, 30), seed=st.integers(0, 99))
    def test_the_same_record_gives_the_same_settings(self, count, seed):
        trials = _record(count, seed)
        found = tpe.propose(SWEEP, trials, count + 1, seed=seed)
        assert tpe.propose(SWEEP, dict(reversed(trials.items())), count + 1, seed=seed) == found
        assert tpe.propose(SWEEP, trials, count + 2, seed=seed) != found
        assert 1e-5 <= found["optim.lr"] <= 1e-1
        assert ("optim.drop_epochs" in found) == (found["optim.schedule"] == "step")
        assert decode(SPACE, json.loads(json.dumps(as_json(found)))) == found

    def test_it_finds_better_settings_than_a_random_search(self):
        def best(search: str, seed: int) -> float:
            trials: dict[int, Trial] = {}
            for number in range(1, 41):
                found = (
                    tpe.propose(SWEEP, trials, number, seed=seed)
                    if search == "tpe"
                    else draw_settings(SWEEP, number, seed=seed)
                )
                trials[number] = _trial(number, found, _quality(found))
            return sum(_quality(decode(SPACE, trials[n].settings)) for n in range(21, 41)) / 20

        gains = [best("tpe", seed) - best("random", seed) for seed in range(4)]
        assert min(gains) > 0
        assert sum(gains) / 4 > 0.1

    def test_no_finished_point_is_asked_for_again_after_a_restart(self, tmp_path):
        """The sweep is opened anew before each trial; a grid of twelve points is tried once each."""
        finite = replace(
            FINITE,
            space={"optim.lr": Choice((1e-3, 1e-4, 1e-5)), "optim.schedule": SPACE["optim.schedule"]},
        )
        finite = replace(finite, space=finite.space | {"optim.weight_decay": Choice((0.0, 0.1))})
        asked = []
        for number in range(1, finite.runs + 1):
            course = _open(finite, str(tmp_path))
            asked.append(course.settings(number))
            course.start(number)
            course.report(number, epoch=1, step=9, metrics={"val/AP": asked[-1]["optim.lr"]}, last=True)
            course.end(number, "finished")
        assert len({json.dumps(as_json(one)) for one in asked}) == finite.runs == 12
        again = _open(finite, str(tmp_path))
        assert [again.settings(number) for number in range(1, 13)] == asked
        assert asdict(again.trials[12])["settings"] == as_json(asked[11])


def _open(sweep: Sweep, folder: str) -> Course:
    store, wanted = SweepStore.at(folder, "night"), SweepFile.of("night", Job(name="x"), sweep, digest="")
    found = store.find(wanted)
    if found is None:
        store.write(wanted)
    return Course(sweep, *(found[0], store, found[1]) if found else (wanted, store, {}))
