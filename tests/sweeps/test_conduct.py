"""What Ray Tune is answered: which trial comes next, which waits, which cannot run; without Ray."""

from dataclasses import replace
from pathlib import Path

import pytest

from qdet.config import override
from qdet.job import Job, Sweep
from qdet.launching.ray_backend import capacity
from qdet.launching.ray_backend.capacity import Node
from qdet.launching.ray_backend.sweeping.conduct import Conduct
from qdet.launching.ray_backend.sweeping.trial import ENDED, ERROR, plan_of
from qdet.launching.runs.sweeps.course import Course
from qdet.launching.runs.sweeps.record import SweepFile, SweepStore, Trial
from qdet.search import Choice, Each
from tests.support import small_models

LR = Sweep(space={"optim.lr": Choice((1e-4, 1e-3))}, trials=3)
WORKERS = Sweep(space={"train.workers": Each((1, 4, 2))}, trials=1, concurrent=2)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> list[Node]:
    """The nodes that the test says: two of one CPU each."""
    nodes = [Node(1.0, 0.0), Node(1.0, 0.0)]
    monkeypatch.setattr(capacity, "list_nodes", lambda: nodes)
    return nodes


def _conduct(folder: Path, sweep: Sweep) -> Conduct:
    job = Job(name="tiny")
    job = override(job, {"store.path": str(folder), "train.batch_size": 8, "train.workers": 1})
    store, wanted = SweepStore.at(str(folder), "night"), SweepFile.of("night", job, sweep, digest=None)
    found = store.find(wanted)
    if found is None:
        store.write(wanted)
    file, trials = found or (wanted, {})
    stopped: list[Trial] = []
    plan = plan_of(job, sweep=sweep, file=file, callbacks=(), environment={})
    conduct = Conduct(Course(sweep, file, store, trials), plan, lambda job: (10, 90), stopped.append)
    conduct.left = conduct.course.waiting
    conduct.said = stopped  # type: ignore[attr-defined]  (for the test alone)
    return conduct


def test_trials_come_one_after_another(tmp_path, cluster):
    conduct = _conduct(tmp_path, LR)
    assert conduct.suggest() == {"trial": 1, "gpu": False}
    assert conduct.suggest() is None
    assert conduct.report(1, {ENDED: "finished", "step": 90, "val/AP": 0.5})
    assert conduct.suggest() == {"trial": 2, "gpu": False}
    conduct.report(2, {ENDED: "failed", ERROR: "DataError: x"})
    conduct.suggest()
    conduct.report(3, {"val/AP": 0.1, "step": 10, "config/trial": 3, "pid": 9, "time_total_s": 1.0})
    with pytest.raises(StopIteration):
        conduct.suggest()
    trials = _conduct(tmp_path, LR).course.trials
    assert [trial.state for trial in trials.values()] == ["finished", "failed", "running"]
    assert trials[1].reports[0].epoch == 9
    assert trials[2].error == "DataError: x"
    assert dict(trials[3].reports[0].metrics) == {"val/AP": 0.1}


def test_a_weak_trial_is_stopped_and_no_report_after_that_counts(tmp_path, cluster, capsys):
    conduct = _conduct(tmp_path, replace(LR, concurrent=2))
    conduct.suggest(), conduct.suggest()
    assert not conduct.report(1, {"step": 10, "val/AP": 0.5})
    assert conduct.report(2, {"step": 10, "val/AP": 0.4})
    assert [trial.number for trial in conduct.said] == [2]
    assert conduct.report(2, {"step": 20, "val/AP": 0.9})
    assert len(conduct.course.trials[2].reports) == 1
    assert "trial t02 stopped early\n" in capsys.readouterr().out


def test_a_trial_that_begins_again_says_from_where(tmp_path, cluster, capsys):
    conduct = _conduct(tmp_path, LR)
    conduct.suggest()
    conduct.report(1, {"step": 20, "val/AP": 0.5})
    _conduct(tmp_path, LR).suggest()
    first, again = capsys.readouterr().out.splitlines()
    assert again == first.replace("tries", "resumes after epoch 2:")


def test_the_last_report_stops_nothing(tmp_path, cluster):
    conduct = _conduct(tmp_path, replace(LR, concurrent=2))
    conduct.suggest(), conduct.suggest()
    for step in (10, 30, 90):
        conduct.report(1, {"step": step, "val/AP": 0.5})
    assert not conduct.report(2, {"step": 90, "val/AP": 0.1})
    assert conduct.course.trials[2].state == "running"


def test_a_trial_that_never_fits_is_a_row_and_one_that_fits_later_waits(tmp_path, cluster, capsys):
    conduct = _conduct(tmp_path, WORKERS)
    assert conduct.suggest() == {"trial": 1, "gpu": False}
    assert conduct.suggest() is None  # the third needs both CPUs, of which the first has one
    assert conduct.suggest() is None
    said = capsys.readouterr().out
    assert "trial t02 cannot run here: needs 4 workers, the cluster has 2\n" in said
    assert said.count("waits") == 1
    assert "trial t03 waits: 1 running trials take 1 of the 2 workers" in said
    conduct.report(1, {ENDED: "finished", "step": 90, "val/AP": 0.5})
    assert conduct.suggest() == {"trial": 3, "gpu": False}
    conduct.report(3, {ENDED: "finished", "step": 90, "val/AP": 0.5})
    cluster += [Node(1.0, 0.0), Node(1.0, 0.0)]
    again = _conduct(tmp_path, WORKERS)
    assert again.left == [2]  # the same command tries it again
    assert again.suggest() == {"trial": 2, "gpu": False}
    assert again.course.trials[2].error is None


def test_trials_that_cannot_run_here_are_rows_before_the_first_one_starts(tmp_path, cluster, capsys):
    """However long the first takes, and however many there are."""
    sweep = Sweep(space={"train.workers": Each((1, 4, 2, 8, 4))}, trials=1, concurrent=1)
    conduct = _conduct(tmp_path, sweep)
    assert conduct.suggest() == {"trial": 1, "gpu": False}
    assert [said.split(":")[0] for said in capsys.readouterr().out.splitlines()] == [
        "trial t02 cannot run here",
        "trial t04 cannot run here",
        "trial t05 cannot run here",
        "trial t01 tries --train.workers 1",
    ]
    assert conduct.left == [3]
    assert {trial.number: trial.state for trial in _conduct(tmp_path, sweep).course.trials.values()} == {
        1: "running",
        2: "cannot run here",
        4: "cannot run here",
        5: "cannot run here",
    }
    assert not [trial for trial in conduct.course.trials.values() if trial.starts and trial.number != 1]


def test_a_trial_waits_for_the_memory_of_a_driver_too_and_says_so(tmp_path, cluster, capsys):
    cluster[:] = [Node(8.0, 0.0, memory=share * capacity.DRIVER_BYTES) for share in (2.5, 0.9)]
    assert capacity.count_drivers(cluster) == 2  # on the first; the second has too little for one
    conduct = _conduct(tmp_path, replace(LR, concurrent=3))
    assert [conduct.suggest() for _ in range(3)] == [
        {"trial": 1, "gpu": False},
        {"trial": 2, "gpu": False},
        None,
    ]
    said = (
        "trial t03 waits: 2 running trials take the memory of all 2 drivers that the cluster has room for\n"
    )
    assert capsys.readouterr().out.endswith(said)
    conduct.report(1, {ENDED: "finished", "step": 90, "val/AP": 0.5})
    assert conduct.suggest() == {"trial": 3, "gpu": False}


def test_on_small_nodes_one_driver_at_least_has_room():
    small = [Node(2.0, 0.0, memory=0.5e9)]
    assert (capacity.share_of_driver(small), capacity.count_drivers(small)) == (0.5e9, 1)
    assert capacity.count_drivers([Node(2.0, 0.0, memory=0.0)]) == 1


def test_where_none_can_run_here_all_are_rows_and_none_starts(tmp_path, cluster):
    conduct = _conduct(tmp_path, Sweep(space={"train.workers": Each((4, 8))}, trials=1))
    with pytest.raises(StopIteration):
        conduct.suggest()
    assert [trial.state for trial in conduct.course.trials.values()] == ["cannot run here"] * 2
    assert [trial.starts for trial in conduct.course.trials.values()] == [0, 0]


def test_a_driver_that_is_lost_for_good_is_a_failed_row(tmp_path, cluster):
    conduct = _conduct(tmp_path, LR)
    conduct.suggest()
    conduct.lost(1, "its driver was lost 4 times")
    assert conduct.course.trials[1].state == "failed"
    assert conduct.suggest() == {"trial": 2, "gpu": False}


def test_evaluations_that_only_checkpoints_tell_of_are_taken(tmp_path, cluster):
    """The sweep's driver was killed after a checkpoint and before its report."""
    conduct = _conduct(tmp_path, LR)
    conduct.suggest()
    conduct.report(1, {"step": 10, "val/AP": 0.2})
    for step, ap in ((10, 0.2), (20, 0.3)):
        small_models.write_checkpoint(tmp_path / "night-t01", step=step, seed=1, metrics={"val/AP": ap})
    again = _conduct(tmp_path, LR)
    again.catch_up()
    assert [(entry.epoch, entry.metrics["val/AP"]) for entry in again.course.trials[1].reports] == [
        (1, 0.2),
        (2, 0.3),
    ]
    assert again.left == [1, 2, 3]


def test_plans_never_name_a_run_of_their_own(tmp_path):
    job = override(Job(name="tiny"), {"store.run": "night", "store.resume": "auto"})
    file = SweepFile.of("night", job, LR, digest=None)
    plan = plan_of(job, sweep=LR, file=file, callbacks=(), environment={})
    assert plan.job.store.run is plan.job.store.resume is None
    assert plan.job_of({"optim.lr": 1e-4}).optim.lr == 1e-4
