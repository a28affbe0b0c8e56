"""The last step is in a checkpoint before it is evaluated, and its metrics are added afterwards."""

import tempfile

import pytest

from qdet.checkpoint import RunFolder, open_folder, verify
from qdet.checkpoint.manifest import read_manifest
from qdet.checkpoint.reading import DOWNLOADED
from qdet.checkpoint.writing import add_metrics
from qdet.config import override
from qdet.storage.scratch import IN_USE
from qdet.tracking import NullTracker
from qdet.training.evaluate import Evaluator
from qdet.training.loop import train
from qdet.training.reporting import LocalReporter, Run
from tests.support.ranks import tiny_job, train_all
from tests.support.small_checkpoints import write

STEPS = 3


class KilledError(BaseException):
    """What ends a process in the middle of its last evaluation."""


def kill(*_):
    raise KilledError


def test_a_kill_in_the_last_evaluation_loses_no_step(demo_shards, tmp_path, monkeypatch):
    job = tiny_job(demo_shards, **{"train.steps": STEPS})
    run = Run(name="run", store=str(tmp_path))
    reporter, tracker = LocalReporter(), NullTracker()
    monkeypatch.setattr(Evaluator, "evaluate", kill)
    with pytest.raises(KilledError):
        train(job, run=run, reporter=reporter, tracker=tracker)
    monkeypatch.undo()
    folder = RunFolder(open_folder(tmp_path / "run"))
    assert folder.steps() == [STEPS]
    before = verify(folder.at(STEPS))
    assert before.metrics == {}
    left = tmp_path / "temporary" / f"{DOWNLOADED}left"
    left.mkdir(parents=True)
    (left / IN_USE).touch()
    monkeypatch.setattr(tempfile, "tempdir", str(left.parent))
    result = train(job, run=run, reporter=reporter, tracker=tracker)
    assert not left.exists()  # what a killed process has downloaded goes at the next start
    after = verify(folder.at(STEPS))
    assert result.step == STEPS
    assert after.metrics == result.metrics
    assert "val/AP" in after.metrics
    assert after.files == before.files
    assert [found.name for found in (tmp_path / "run").glob("step_*")] == [f"step_{STEPS:06d}"]


class Again(LocalReporter):
    """Keeps the evaluations that a restart reports again, from checkpoints."""

    def __init__(self):
        super().__init__(display=None)
        self.again = {}

    def resumed(self, evaluations):
        self.again |= {step: dict(metrics) for step, metrics in evaluations.items()}


def test_a_resumed_training_reports_its_last_evaluations_again(demo_shards, tmp_path):
    changes = {"train.steps": 15, "train.eval_every": 1, "train.keep_every": 1, "train.hours": 1e-9}
    job = tiny_job(demo_shards, **changes)  # 6 steps an epoch
    points = train_all(1, {"run": override(job, {"train.hours": None, "train.steps": 13})}, tmp_path)["run"]
    reporter = Again()
    train(job, run=Run("run", str(tmp_path)), reporter=reporter, tracker=NullTracker())
    evaluated = {step: found["val/AP"] for step, found in points.items() if "val/AP" in found}
    assert list(evaluated) == [6, 12, 13]
    assert {step: metrics["val/AP"] for step, metrics in reporter.again.items()} == evaluated
    assert list(reporter.again) == sorted(reporter.again)
    first = Again()
    train(job, run=Run("new", str(tmp_path)), reporter=first, tracker=NullTracker())
    assert first.again == {}


def test_metrics_are_added_once(tmp_path):
    folder = open_folder(tmp_path / "step_000300")
    write(folder)
    assert add_metrics(folder, {"val/AP": 0.5})
    assert not add_metrics(folder, {"val/AP": 0.9})
    assert read_manifest(folder).metrics == {"val/AP": 0.5}
    verify(folder)
