"""Population-based training: who is replaced by whom, what that changes, and that a kill changes neither."""

import hashlib
import random
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qdet.checkpoint import open_folder
from qdet.checkpoint.manifest import read_manifest
from qdet.config import override
from qdet.errors import CheckpointError, ConfigError
from qdet.job import Job, Sweep
from qdet.launching import cli
from qdet.launching.runs.sweeps.adoption import adopt_checkpoint
from qdet.launching.runs.sweeps.course import Course
from qdet.launching.runs.sweeps.population import Member, check_population, decide, mutate, pause_of
from qdet.launching.runs.sweeps.record import SweepFile, SweepStore, Trial
from qdet.launching.runs.sweeps.rounds import Rounds
from qdet.recipes import Recipe
from qdet.search import Choice, LogUniform, Uniform, When
from tests.support import small_models

SPACE = {
    "optim.lr": LogUniform(1e-5, 1e-2),
    "optim.weight_decay": Uniform(0.0, 0.1),
    "optim.schedule": Choice(("step", "cosine")),
    "optim.drop_epochs": When("optim.schedule", ("step",), Choice(((3,), (5,), (7,)))),
}
SWEEP = Sweep(space=SPACE, scheduler="pbt", trials=5, exploit_epochs=2)
EPOCHS = 7


class _Killed(Exception):
    """The sweep's driver has died."""


class _World:
    """Trials as they would train, each a list of who trained it up to every epoch; runs may be killed."""

    def __init__(self, folder: str, values: list[list[float]], order: list[int]) -> None:
        self.folder, self.values, self.order = folder, values, order
        self.weights: dict[int, list[int]] = {number: [] for number in range(1, 6)}
        self.turn = 0
        self.left: float = float("inf")
        """Events until the next kill."""

    def event(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise _Killed

    def adopt(self, trial: Trial, winner: Trial, step: int) -> None:
        assert len(self.weights[winner.number]) == step // 10  # the winner has not trained on
        self.event()
        self.weights[trial.number] = list(self.weights[winner.number])
        self.event()

    def open(self) -> tuple[Course, Rounds]:
        store = SweepStore.at(self.folder, "pop")
        wanted = SweepFile.of("pop", Job(name="x"), SWEEP, digest="")
        found = store.find(wanted)
        if found is None:
            store.write(wanted)
        file, trials = found or (wanted, {})
        course = Course(SWEEP, file, store, trials)
        return course, Rounds(course, self.adopt, EPOCHS)

    def run(self, *, kill_after: float = float("inf")) -> None:
        self.left = kill_after
        course, rounds = self.open()
        while ready := rounds.next():
            ready = list(ready)
            while ready:
                number = ready.pop(self.order[self.turn % len(self.order)] % len(ready))
                self.turn += 1
                self._train(course, rounds, number)

    def _train(self, course: Course, rounds: Rounds, number: int) -> None:
        course.start(number)
        pause = rounds.pause(number) or EPOCHS
        while (epoch := len(self.weights[number])) < pause:
            self.event()
            self.weights[number].append(number)  # the checkpoint
            self.event()
            value = self.values[number - 1][epoch]
            course.report(
                number, epoch=epoch + 1, step=10 * epoch + 10, metrics={"val/AP": value}, last=False
            )
        if course.trials[number].epoch < pause:  # what only its checkpoint says
            self._report(course, number, pause, self.values[number - 1][pause - 1])
        course.end(number, "paused" if pause < EPOCHS else "finished")

    @staticmethod
    def _report(course: Course, number: int, epoch: int, value: float) -> None:
        course.report(number, epoch=epoch, step=10 * epoch, metrics={"val/AP": value}, last=False)


scores = st.lists(
    st.lists(st.floats(0, 1) | st.just(float("nan")), min_size=EPOCHS, max_size=EPOCHS),
    min_size=5,
    max_size=5,
)


@settings(max_examples=6, deadline=None)
@given(
    values=scores,
    order=st.lists(st.integers(0, 4), min_size=1, max_size=7),
    kills=st.lists(st.integers(0, 40), max_size=5),
)
def test_a_population_that_is_killed_anywhere_is_the_one_that_was_not(values, order, kills):
    whole = _World(f"memory://{uuid4().hex}", values, [0])
    whole.run()
    killed = _World(f"memory://{uuid4().hex}", values, order)
    for kill in kills:
        try:
            killed.run(kill_after=kill)
        except _Killed:
            continue
    killed.run()
    (once, _), (again, _) = whole.open(), killed.open()
    assert again.waiting == []
    assert killed.weights == whole.weights
    for number, trial in once.trials.items():
        ours = again.trials[number]
        assert (ours.state, ours.turns, ours.settings) == ("finished", trial.turns, trial.settings)
        assert [turn.epoch for turn in ours.turns] == [2, 4, 6]
        assert {entry.epoch for entry in ours.reports} >= {2, 4, 6, 7}


@given(st.lists(st.floats(0, 1), min_size=1, max_size=24), st.integers(0, 3), st.integers(1, 9))
def test_the_worst_quarter_continues_from_the_best_quarter(found, seed, epoch):
    members = [
        Member(number, value, mutate(SPACE, {}, random.Random(number)))
        for number, value in enumerate(found, start=1)
    ]
    exploits = decide(members, SPACE, epoch=epoch, seed=seed)
    ranked = sorted(found, reverse=True)
    quarter = max(1, len(found) // 4)
    worst, best = ranked[-quarter], ranked[quarter - 1]
    losers, winners = {one.member for one in exploits}, {one.winner for one in exploits}
    assert not losers & winners
    for one in exploits:
        assert found[one.winner - 1] > found[one.member - 1]
        assert (found[one.member - 1] <= worst, found[one.winner - 1] >= best) == (True, True)
    if len(found) > 1 and len(set(found)) == len(found):
        assert len(exploits) == quarter
    shuffled = random.Random(seed).sample(members, len(members))
    assert decide(shuffled, SPACE, epoch=epoch, seed=seed) == exploits


@given(st.integers(0, 10**6))
def test_mutated_settings_stay_in_the_space_and_near_their_origin(seed):
    rng = random.Random(seed)
    before = mutate(SPACE, {}, rng)
    after = mutate(SPACE, before, rng)
    assert 1e-5 <= after["optim.lr"] <= 1e-2
    assert 0.0 <= after["optim.weight_decay"] <= 0.1
    assert ("optim.drop_epochs" in after) == (after["optim.schedule"] == "step")
    job = override(Job(name="x"), after)
    assert job.optim.lr == after["optim.lr"]


def test_most_mutations_are_of_a_fifth_and_some_are_drawn_anew():
    space = {"optim.lr": LogUniform(1e-9, 1.0)}
    found = [mutate(space, {"optim.lr": 1e-4}, random.Random(seed))["optim.lr"] for seed in range(2000)]
    near = sum(value == pytest.approx(8e-5) or value == pytest.approx(1.2e-4) for value in found)
    assert 0.70 < near / 2000 < 0.80
    options = {"optim.drop_epochs": Choice(((1,), (2,), (3,), (4,)))}
    drawn = [
        mutate(options, {"optim.drop_epochs": (2,)}, random.Random(seed))["optim.drop_epochs"]
        for seed in range(400)
    ]
    assert drawn.count((1,)) + drawn.count((3,)) > 0.75 * 400


def test_members_pause_at_multiples_before_the_end():
    assert [pause_of(done, SWEEP, epochs=7) for done in range(4)] == [2, 4, 6, None]
    assert [pause_of(done, SWEEP, epochs=6) for done in range(3)] == [2, 4, None]


def test_an_adopted_checkpoint_is_bitwise_the_winners_and_its_run_counts_on(tmp_path):
    for label, seed, value in (("t01", 1, 0.2), ("t02", 2, 0.7)):
        small_models.write_checkpoint(
            tmp_path / f"pop-{label}", step=20, seed=seed, metrics={"val/AP": value}
        )
    loser, winner = (Trial(number=number, settings={}) for number in (1, 2))
    adopt_checkpoint(str(tmp_path), "pop", loser, winner, 20)
    ours, theirs = (tmp_path / f"pop-{label}/step_000020" for label in ("t01", "t02"))

    def contents(folder: Path) -> list[str]:
        files = [file for file in folder.iterdir() if file.name != "manifest.json"]
        return sorted(hashlib.sha256(file.read_bytes()).hexdigest() for file in files)

    assert contents(ours) == contents(theirs)
    assert read_manifest(open_folder(ours)).metrics == {"val/AP": 0.7}
    with pytest.raises(CheckpointError, match=r"step_000030 is not a complete checkpoint"):
        adopt_checkpoint(str(tmp_path), "pop", loser, winner, 30)


def test_a_member_whose_chosen_checkpoint_is_gone_continues_from_its_own(tmp_path, capsys):
    world = _World(str(tmp_path), [[number / 10] * EPOCHS for number in range(1, 6)], [0])

    def gone(trial: Trial, winner: Trial, step: int) -> None:
        raise CheckpointError("it is gone")

    world.adopt = gone  # type: ignore[method-assign]
    world.run()
    assert capsys.readouterr().out.count("trial t01 continues from its own checkpoint: it is gone") == 3
    trial = world.open()[0].trials[1]
    assert [(turn.parent, turn.error) for turn in trial.turns] == [(None, "it is gone")] * 3
    assert trial.settings == trial.turns[0].before
    assert world.weights[1] == [1] * EPOCHS


@pytest.mark.parametrize(
    ("sweep", "changes", "said"),
    [
        (
            replace(SWEEP, space=SPACE | {"detector.queries": Choice((20, 30))}),
            {},
            "detector.queries cannot change",
        ),
        (replace(SWEEP, space={"train.epochs": Choice((3, 4))}), {}, "train.epochs cannot change while"),
        (replace(SWEEP, trials=1), {}, "give --sweep.trials 2 or more"),
        (SWEEP, {"train.eval_every": 3}, "which are every 3 epochs"),
    ],
)
def test_what_no_population_can_do_is_refused(sweep, changes, said):
    with pytest.raises(ConfigError, match=said):
        check_population(sweep, override(Job(name="x"), changes))


def test_a_population_that_can_train_is_accepted():
    job = Job(name="x")
    SWEEP.check(job)
    check_population(SWEEP, job)


def test_a_population_keeps_its_size(tmp_path):
    store, wanted = SweepStore.at(str(tmp_path), "pop"), SweepFile.of("pop", Job(name="x"), SWEEP, digest="")
    store.write(wanted)
    larger = SweepFile.of("pop", Job(name="x"), replace(SWEEP, trials=9), digest="")
    with pytest.raises(ConfigError, match=r"--sweep\.trials was 5, it is 9"):
        store.find(larger)


def test_the_demo_of_a_population_searches_what_can_change():
    recipe = Recipe(job=Job(name="x"), sweep=Sweep(space={"optim.lr": LogUniform(1e-5, 1e-3)}))
    command = cli._parse(recipe, ["--demo", "--sweep", "--sweep.scheduler", "pbt"])
    check_population(command.space, command.job)
    assert list(command.space.space) == ["optim.lr"]
    assert len(cli._parse(recipe, ["--demo", "--sweep"]).space.space) == 2
