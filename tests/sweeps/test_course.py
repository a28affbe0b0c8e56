"""A sweep that is killed anywhere and started again is the sweep that was never killed."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qdet.config import override
from qdet.errors import ConfigError
from qdet.job import Job, Sweep
from qdet.launching.runs.sweeps.course import Course
from qdet.launching.runs.sweeps.record import SweepFile, SweepStore
from qdet.launching.runs.sweeps.settings import draw_settings
from qdet.launching.runs.sweeps.table import TrialRow
from qdet.search import Choice, Each, LogUniform, Uniform

JOB = Job(name="tiny")
SWEEP = Sweep(space={"optim.lr": LogUniform(1e-5, 1e-3), "detector.queries": Choice((20, 30))}, trials=5)
EPOCHS = 9


def _open(folder: Path, sweep: Sweep = SWEEP, job: Job = JOB, **given) -> Course:
    store = SweepStore.at(str(folder), "night")
    wanted = SweepFile.of("night", job, sweep, digest="d")
    found = store.find(wanted)
    if found is None:
        store.write(wanted)
        found = wanted, {}
    return Course(sweep, *(found[0], store, found[1]), **given)


class _Trainings:
    """Trials as they would train: a value per epoch; those that run take turns as `turns` says."""

    def __init__(self, values: list[list[float]], turns: list[int], concurrent: int) -> None:
        self.values, self.turns, self.concurrent = values, turns, concurrent
        self.evaluated: dict[int, list[int]] = {}

    def run(self, course: Course, *, kill_after: int | None = None, forget: int = 0) -> None:
        """Run until the sweep ends or is killed; a trial resumes `forget` epochs before its last report."""
        left = course.waiting
        running: dict[int, int] = {}
        actions = 0
        while left or running:
            while left and len(running) < self.concurrent:
                number = left.pop(0)
                if course.spent and number not in course.trials:
                    continue
                trial = course.start(number)
                running[number] = max(0, len(trial.reports) - forget)
            if not running or (kill_after is not None and actions >= kill_after):
                return
            number = sorted(running)[self.turns[actions % len(self.turns)] % len(running)]
            actions += 1
            running[number] += 1
            epoch = running[number]
            before = len(course.trials[number].reports)
            metrics = {"val/AP": self.values[number - 1][epoch - 1]}
            stops = course.report(number, epoch=epoch, step=10 * epoch, metrics=metrics, last=epoch == EPOCHS)
            if len(course.trials[number].reports) > before:
                self.evaluated.setdefault(number, []).append(epoch)
            if stops or epoch == EPOCHS:
                course.end(number, "finished")
                del running[number]


scores = st.lists(
    st.lists(st.floats(0, 1) | st.just(math.nan), min_size=EPOCHS, max_size=EPOCHS), min_size=5, max_size=5
)


@settings(max_examples=30)
@given(values=scores, kills=st.lists(st.integers(0, 30), max_size=4), forget=st.integers(0, 2))
def test_one_by_one_a_killed_sweep_ends_as_one_that_was_not(values, kills, forget, tmp_path_factory):
    whole = _open(tmp_path_factory.mktemp("whole"))
    _Trainings(values, [0], 1).run(whole)
    folder, trainings = tmp_path_factory.mktemp("killed"), _Trainings(values, [0], 1)
    for kill in kills:
        trainings.run(_open(folder), kill_after=kill, forget=forget)
    trainings.run(_open(folder), forget=forget)
    ended = _open(folder)
    assert ended.waiting == whole.waiting == []
    for number, trial in whole.trials.items():
        assert replace(ended.trials[number], starts=1) == replace(trial, starts=1)
        assert trainings.evaluated[number] == list(range(1, len(trial.reports) + 1))  # each epoch once
    assert ended.scheduler == whole.scheduler == _open(folder).scheduler


@settings(max_examples=30)
@given(
    values=scores,
    turns=st.lists(st.integers(0, 4), min_size=1, max_size=9),
    kills=st.lists(st.integers(0, 20), max_size=4),
)
def test_side_by_side_no_decision_is_lost_and_no_epoch_counted_twice(values, turns, kills, tmp_path_factory):
    folder = tmp_path_factory.mktemp("killed")
    trainings = _Trainings(values, turns, 3)
    for kill in kills:
        course = _open(folder)
        trainings.run(course, kill_after=kill, forget=1)
        again = _open(folder)
        assert again.scheduler == course.scheduler
        assert again.trials == course.trials
    trainings.run(_open(folder), forget=1)
    course = _open(folder)
    orders = sorted(entry.order for trial in course.trials.values() for entry in trial.reports)
    assert orders == list(range(len(orders)))
    for number in range(1, 6):
        assert trainings.evaluated[number] == list(range(1, len(course.trials[number].reports) + 1))
        assert course.trials[number].state in ("finished", "stopped early")


def test_a_trial_that_was_stopped_as_the_sweep_was_killed_is_not_run_again(tmp_path):
    course = _open(tmp_path)
    for number, value in ((1, 0.9), (2, 0.1)):
        course.start(number)
        course._add(course.trials[number], 1, 10, {"val/AP": value})  # killed before the state was written
    again = _open(tmp_path)
    again.end_decided()
    assert [again.trials[n].state for n in (1, 2)] == ["running", "stopped early"]
    assert again.waiting == [1, 3, 4, 5]


@pytest.mark.parametrize(
    ("sweep", "job", "said"),
    [
        (replace(SWEEP, space={"optim.lr": Choice((1.0,))}), JOB, "it searches optim.lr LogUniform"),
        (replace(SWEEP, space=SWEEP.space | {"optim.lr": LogUniform(1e-5, 2e-3)}), JOB, "0.002"),
        (replace(SWEEP, mode="min"), JOB, "--sweep.mode was max, it is min"),
        (replace(SWEEP, scheduler="none"), JOB, "--sweep.scheduler was asha, it is none"),
        (SWEEP, override(JOB, {"train.seed": 7}), "--train.seed was 0, it is 7"),
        (SWEEP, override(JOB, {"train.batch_size": 8}), "--train.batch-size was 16, it is 8"),
        (SWEEP, override(JOB, {"train.epochs": 3}), "--train.epochs was 12, it is 3"),
    ],
)
def test_another_sweep_of_that_name_is_refused(sweep, job, said, tmp_path):
    _open(tmp_path)
    before = (tmp_path / "night" / "sweep.json").read_bytes()
    with pytest.raises(ConfigError, match="night is another sweep") as error:
        _open(tmp_path, sweep, job)
    assert said in str(error.value)
    assert (tmp_path / "night" / "sweep.json").read_bytes() == before


def test_what_does_not_change_results_may_change(tmp_path):
    _open(tmp_path)
    more = replace(SWEEP, trials=9, concurrent=4, epochs=5, hours=1.0)
    job = override(JOB, {"train.workers": 4, "optim.lr": 1.0, "train.checkpoint_every": 3})  # lr is searched
    assert _open(tmp_path, more, job).waiting == list(range(1, 10))


def test_the_name_of_a_run_is_refused(tmp_path):
    (tmp_path / "night").mkdir()
    (tmp_path / "night" / "run.json").write_text("{}")
    with pytest.raises(ConfigError, match="night is a run, not a sweep"):
        _open(tmp_path)


def test_a_damaged_record_is_named(tmp_path):
    _open(tmp_path).start(1)
    (tmp_path / "night" / "trials" / "0001.json").write_text("{")
    with pytest.raises(ConfigError, match=r"trials/0001\.json cannot be read"):
        _open(tmp_path)


def test_the_record_is_strict_json(tmp_path):
    sweep = replace(SWEEP, space={"optim.lr": Choice((math.inf,)), "optim.drop_epochs": Choice(((8, 11),))})
    course = _open(tmp_path, sweep)
    course.start(1)
    course.report(1, epoch=1, step=3, metrics={"val/AP": math.nan, "val/AP50": 0.5}, last=False)

    def refuse(constant: str) -> float:
        raise AssertionError(constant)

    content = json.loads((tmp_path / "night" / "trials" / "0001.json").read_text(), parse_constant=refuse)
    assert content["settings"] == {"optim.lr": "inf", "optim.drop_epochs": [8, 11]}
    assert content["reports"] == [{"order": 0, "epoch": 1, "step": 3, "metrics": {"val/AP50": 0.5}}]
    again = _open(tmp_path, sweep)
    assert again.settings(1) == {"optim.lr": math.inf, "optim.drop_epochs": (8, 11)}
    row = TrialRow.of(again.trials[1], again.settings(1), "val/AP")
    assert (row.metric, row.step) == (None, 3)


def test_a_metric_that_is_not_reported_fails_the_trial(tmp_path):
    course = _open(tmp_path, replace(SWEEP, metric="val/mAP"))
    course.start(1)
    assert course.report(1, epoch=1, step=3, metrics={"val/AP": 0.5}, last=False) == "failed"
    assert course.trials[1].error == "--sweep.metric val/mAP is not among: val/AP"


def test_a_budget_of_epochs_ends_the_sweep_and_a_larger_one_goes_on(tmp_path):
    values = [[0.5] * EPOCHS] * 5
    none = replace(SWEEP, scheduler="none", epochs=12)
    course = _open(tmp_path, none)
    _Trainings(values, [0], 1).run(course)
    assert course.epochs == 12
    assert [trial.state for trial in course.trials.values()] == ["finished", "out of budget"]
    assert _open(tmp_path, none).waiting == []
    more = _open(tmp_path, replace(none, epochs=30))
    assert more.waiting == [2, 3, 4, 5]
    _Trainings(values, [0], 1).run(more)
    assert [len(trial.reports) for trial in more.trials.values()] == [9, 9, 9, 3]


def test_a_budget_of_hours_counts_all_starts(tmp_path):
    now = [0.0]
    hourly = replace(SWEEP, hours=1.0)
    course = _open(tmp_path, hourly, clock=lambda: now[0])
    course.start(1)
    now[0] = 2000.0
    assert course.report(1, epoch=1, step=1, metrics={"val/AP": 0.1}, last=False) is None
    again = _open(tmp_path, hourly, clock=lambda: now[0])  # killed, 2000 s of 3600 recorded
    now[0] += 1599.0
    assert again.spent is None
    now[0] += 2.0
    assert again.spent == "--sweep.hours 1 is used up"
    assert again.waiting == [1]  # but its next report stops it
    assert again.report(1, epoch=2, step=2, metrics={"val/AP": 0.2}, last=False) == "out of budget"
    assert again.waiting == []


spaces = st.fixed_dictionaries(
    {"a": st.just(Uniform(0.0, 1.0)), "b": st.just(LogUniform(1e-5, 1e-1)), "c": st.just(Choice((1, 2, 3)))},
    optional={"d": st.just(Each(("x", "y"))), "e": st.just(Each((True, False, None)))},
)


@given(spaces, st.integers(0, 3), st.integers(1, 4))
def test_settings_follow_from_seed_and_number(space, seed, trials):
    sweep = Sweep(space=space, trials=trials)
    drawn = [draw_settings(sweep, n, seed=seed) for n in range(1, sweep.runs + 1)]
    longer = replace(sweep, trials=trials + 2)
    assert drawn == [draw_settings(longer, n, seed=seed) for n in range(1, sweep.runs + 1)]
    assert all(list(one) == list(space) for one in drawn)
    assert all(0 <= one["a"] <= 1 and 1e-5 <= one["b"] <= 1e-1 and one["c"] in (1, 2, 3) for one in drawn)
    assert len({one["a"] for one in drawn}) == len(drawn)
    each = [path for path in ("d", "e") if path in space]
    combinations = [tuple(one[path] for path in each) for one in drawn]
    assert all(combinations.count(one) == trials for one in combinations)
    assert drawn[0] != draw_settings(sweep, 1, seed=seed + 1)


def test_a_grid_is_every_combination_once():
    sweep = Sweep(space={"a": Choice((1, 2)), "b": Each((1, 2, 3))}, search="grid", trials=50)
    drawn = [tuple(draw_settings(sweep, n, seed=0).values()) for n in range(1, sweep.runs + 1)]
    assert sorted(drawn) == [(a, b) for a in (1, 2) for b in (1, 2, 3)]


def test_a_grid_over_a_range_is_refused():
    with pytest.raises(ConfigError, match="is a range, which has no grid"):
        replace(SWEEP, search="grid").check(JOB)
