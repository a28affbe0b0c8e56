"""Evaluations, also that before the first step, change no number of the training around them."""

import random

import numpy as np
import pytest
import torch

from qdet.config import override
from qdet.errors import CheckpointError
from qdet.tracking import NullTracker
from qdet.training import evaluate as evaluating
from qdet.training.checkpointing import rehearsal
from qdet.training.evaluate import random_numbers_kept
from qdet.training.loop import train
from qdet.training.reporting import LocalReporter, Run
from tests.support.ranks import assert_same, checkpoint, losses, tiny_job, train_all


@pytest.mark.slow
@pytest.mark.ci_slow
def test_losses_and_the_last_metrics_are_the_same_with_more_evaluations(demo_shards, tmp_path):
    # 48 images make 6 steps of an epoch; the average and dropout have states of their own
    changes = {"train.workers": 1, "train.steps": 14, "optim.ema_decay": 0.9, "train.log_every": 1}
    once = tiny_job(demo_shards, **changes, **{"train.eval_every": 0})
    often = override(once, {"train.eval_every": 1})
    points = train_all(1, {"once": once, "often": often}, tmp_path)
    assert len(losses(points["once"])) == 14
    assert losses(points["once"]) == losses(points["often"])
    assert evaluated(points["once"]) == [14]
    assert evaluated(points["often"]) == [6, 12, 14]
    last = [{k: v for k, v in of[14].items() if k.startswith("val/")} for of in points.values()]
    assert last[0] == last[1]


def evaluated(points) -> list[int]:
    return [step for step, values in points.items() if "val/AP" in values]


SHORT = {"train.steps": 3, "optim.ema_decay": 0.9, "eval.pictures": 2}


def check_sanity(shards, store, ranks, **changes):
    """A run that evaluates before its first step, and resumes so, logs and saves what one without it does."""
    without = tiny_job(shards, **SHORT | changes)
    # as a name of the checkpoint holds its settings, both runs are compared by tensors and points alone
    jobs = {"without": without, "with": override(without, {"eval.sanity": True})}
    first = {name: override(job, {"train.steps": 2}) for name, job in jobs.items()}
    points = train_all(ranks, first, store), train_all(ranks, jobs, store)  # the second resumes
    for made in points:
        times = ("perf/", "system/")
        one, other = (
            {step: {k: v for k, v in at.items() if not k.startswith(times)} for step, at in run.items()}
            for run in (made["without"], made["with"])
        )
        assert one == other
        assert one
    for step in (2, 3):
        assert_same(checkpoint(store, "without", step), checkpoint(store, "with", step))
    assert not list(store.glob("*/.sanity*"))


@pytest.mark.slow
@pytest.mark.parametrize("zero", [1, 3])
def test_an_evaluation_before_the_first_step_changes_nothing(demo_shards, tmp_path, zero):
    check_sanity(demo_shards, tmp_path, 1, **{"train.zero": zero})


@pytest.mark.slow
@pytest.mark.parametrize("zero", [2, 3])
def test_an_evaluation_before_the_first_step_changes_nothing_on_two_ranks(demo_shards, tmp_path, zero):
    check_sanity(demo_shards, tmp_path, 2, **{"train.zero": zero, "train.workers": 2})


class Counting(LocalReporter):
    """Counts steps and evaluations that are reported."""

    def __init__(self):
        super().__init__(display=None)
        self.steps, self.evaluations = 0, 0

    def progress(self, progress):
        self.steps += 1

    def evaluated(self, step, metrics):
        self.evaluations += 1


def start(job, store):
    reporter = Counting()
    try:
        train(job, run=Run(name="r", store=str(store)), reporter=reporter, tracker=NullTracker())
    finally:
        counted = reporter.steps, reporter.evaluations
        print(counted)
    return counted


def test_what_would_fail_at_the_first_evaluation_fails_before_the_first_step(
    demo_shards, tmp_path, monkeypatch, capsys
):
    job = tiny_job(demo_shards, **SHORT, **{"eval.sanity": True})

    def fail(*_, **__):
        raise ValueError("can't measure length of multiline text")

    monkeypatch.setattr(evaluating, "comparison_sheet", fail)
    with pytest.raises(ValueError, match="multiline"):
        start(job, tmp_path)
    assert capsys.readouterr().out.endswith("(0, 0)\n")
    with pytest.raises(ValueError, match="multiline"):  # without, it trains to the first evaluation
        start(override(job, {"eval.sanity": False}), tmp_path / "without")
    assert capsys.readouterr().out.endswith("(3, 1)\n")


def test_a_store_that_takes_no_checkpoint_is_noticed_before_the_first_step(
    demo_shards, tmp_path, monkeypatch, capsys
):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(rehearsal, "write_share", full)
    with pytest.raises(CheckpointError, match=r"before the first step.*No space left.*--store.path"):
        start(tiny_job(demo_shards, **SHORT, **{"eval.sanity": True}), tmp_path)
    assert capsys.readouterr().out.endswith("(0, 0)\n")


def test_random_numbers_are_kept():
    torch.manual_seed(1), random.seed(1), np.random.seed(1)  # noqa: NPY002
    expected = torch.rand(3), random.random(), np.random.rand()  # noqa: NPY002
    torch.manual_seed(1), random.seed(1), np.random.seed(1)  # noqa: NPY002
    with random_numbers_kept(torch.device("cpu")):
        torch.rand(5), random.random(), np.random.rand()  # noqa: NPY002
        torch.manual_seed(7)
    assert torch.equal(torch.rand(3), expected[0])
    assert (random.random(), np.random.rand()) == expected[1:]  # noqa: NPY002
