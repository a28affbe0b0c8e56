"""A worker killed with signal 9 where it hurts: the run that is started again ends in the same bytes."""

import os
import signal
from pathlib import Path

import pytest
import torch.multiprocessing as mp

from qdet.config import override
from qdet.training import accounting, evaluate, loop
from qdet.training.checkpointing import save as saving
from qdet.training.health import monitor
from qdet.training.reporting import LocalReporter, Run
from tests.support.denoising_jobs import DETECTORS, job_of
from tests.support.random_job import comparable_state, random_job
from tests.support.ranks import Recorder, assert_same, checkpoint, on_ranks, train_all

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

STEPS = 6
MOMENTS = {
    # After how many calls of which function (counted from 1) of which rank.
    "first step": (monitor.HealthMonitor, "step_done", 1, 1),
    "share of a checkpoint written": (saving, "write_share", 1, 1),
    "manifest about to be written": (saving, "commit", 2, 0),
    "evaluation": (evaluate, "evaluate_shards", 1, 1),
    "end of an epoch": (accounting.Accounting, "settle", 1, 1),
}


def jobs(shards):
    """A run for every stage: a checkpoint every other step, an evaluation at each epoch's end."""
    flags = {"train.checkpoint_every": 2, "train.eval_every": 1, "train.steps": STEPS, "optim.ema_decay": 0.9}
    return {f"run{zero}": override(random_job(shards, zero=zero), flags) for zero in (0, 1, 2, 3)}


@pytest.fixture(scope="module")
def calm(demo_shards, tmp_path_factory):
    """Where undisturbed runs are."""
    store = tmp_path_factory.mktemp("calm")
    train_all(2, jobs(demo_shards), store)
    return store


@pytest.mark.parametrize("name", DETECTORS)
def test_a_run_with_denoising_killed_ends_bitwise_the_same(demo_shards, tmp_path, name):
    """Killed after a checkpoint, it draws the noise of the steps that it makes again."""
    flags = {"train.workers": 2, "train.checkpoint_every": 2, "train.steps": STEPS}
    job = override(job_of(demo_shards, name), flags)
    train_all(2, {name: job}, tmp_path / "calm")
    with pytest.raises(mp.ProcessExitedException, match="SIGKILL"):
        on_ranks(2, _train_and_die, job, name, tmp_path / "killed", "manifest about to be written")
    again = train_all(2, {name: job}, tmp_path / "killed")[name]
    assert sorted(again) == [3, 4, 5, 6]
    assert_same(checkpoint(tmp_path / "killed", name, STEPS), checkpoint(tmp_path / "calm", name, STEPS))


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_a_run_killed_at_a_critical_moment_ends_bitwise_the_same(calm, demo_shards, tmp_path, zero, moment):
    name = f"run{zero}"
    job = jobs(demo_shards)[name]
    rank = MOMENTS[moment][-1]
    with pytest.raises(mp.ProcessExitedException, match="SIGKILL") as killed:
        on_ranks(2, _train_and_die, job, name, tmp_path, moment)
    assert killed.value.error_index == rank
    steps = sorted(int(p.parent.name[-6:]) for p in (tmp_path / name).glob("step_*/manifest.json"))
    assert steps == {"first step": [], "end of an epoch": [2], "evaluation": [2]}.get(moment, steps)
    assert STEPS not in steps
    train_all(2, {name: job}, tmp_path)
    there, here = checkpoint(tmp_path, name, STEPS), checkpoint(calm, name, STEPS)
    assert_same(there, here)
    assert comparable_state(there) == comparable_state(here)


def _train_and_die(job, name: str, store: Path, moment: str) -> None:
    owner, function, calls, rank = MOMENTS[moment]
    if int(os.environ["RANK"]) == rank:
        _deadly(owner, function, calls)
    loop.train(job, run=Run(name=name, store=str(store)), reporter=LocalReporter(), tracker=Recorder())


def _deadly(owner, name: str, calls: int) -> None:
    """Let the function of that name work one call less than `calls`, and kill this process at the next."""
    function, done = getattr(owner, name), []

    def once(*args, **kwargs):
        done.append(name)
        if len(done) == calls:
            if name == "write_share":  # written, but not yet reported
                function(*args, **kwargs)
            elif name == "evaluate_shards":  # at its first image
                function(args[0], _dying, *args[2:], **kwargs)
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)

    setattr(owner, name, once)


def _dying(*inputs):
    os.kill(os.getpid(), signal.SIGKILL)
