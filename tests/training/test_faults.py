"""What workers tell each other along with a step: who is slow and what spikes, without a collective more."""

import time

import numpy as np
import pytest
import torch
from torch import nn

from qdet.config import override
from qdet.job import Job
from qdet.training.distributed import World
from qdet.training.health.monitor import Faults


class Told(World):
    """Rank 0 of a world in which `gather` brings the names of hosts."""

    def gather(self, value):
        return [f"host{rank}" for rank in range(self.size)]

    def broadcast(self, value):
        return value


def faults_of(ranks, zero=1):
    """The faults of every rank of a world, all in this process."""
    job = override(Job(name="x"), {"train.hang_after": 0, "train.zero": zero})
    worlds = [Told(rank=rank, size=ranks, device=torch.device("cpu")) for rank in range(ranks)]
    return [Faults(job, world, nn.Linear(1, 1)) for world in worlds]


def exchange(everybody):
    """Make the collective of a step: what all told, summed, is heard by all."""
    told = np.sum([faults.told() for faults in everybody], axis=0)
    for faults in everybody:
        faults.heard(told.tolist())


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 0.0

    monkeypatch.setattr(time, "perf_counter", lambda: Clock.now)
    return Clock


def make_steps(everybody, clock, count, *, waits, passes, loss=lambda step: 1.0):
    streams = [faults.waiting(_late(clock, waits[rank])) for rank, faults in enumerate(everybody)]
    for step in range(1, count + 1):
        for stream in streams:
            next(stream)
        exchange(everybody)
        for rank, faults in enumerate(everybody):
            with faults.forward():
                clock.now += passes[rank]
            faults.step_done(step, loss(step))


def _late(clock, seconds):
    while True:
        clock.now += seconds
        yield None


def test_a_slow_forward_pass_is_named_by_rank_0_alone(clock, capsys):
    make_steps(faults_of(3), clock, 50, waits=[0, 0, 0], passes=[1.0, 1.0, 1.4])
    said = capsys.readouterr().out
    assert said.count("\n") == 1
    assert "worker 2 on host host2 is 1.40 times as slow" in said
    assert "forward pass" in said


@pytest.mark.parametrize("zero", [1, 3])
def test_a_slow_reader_is_named(clock, capsys, zero):
    # Under ZeRO-3 the passes of the others wait for the late one: all of them end at the same time.
    passes = [1.0, 1.5, 1.5] if zero == 3 else [1.0, 1.0, 1.0]
    make_steps(faults_of(3, zero), clock, 50, waits=[0.5, 0, 0], passes=passes)
    said = capsys.readouterr().out
    assert "worker 0 on host host0 is 1.50 times as slow" in said
    assert "waiting for data" in said


def test_a_spike_of_the_mean_loss_is_said_and_counted_once(clock, capsys):
    everybody = faults_of(2)
    rng = np.random.default_rng(0)

    def loss(step):
        return 50.0 if step == 60 else 5 + 0.1 * rng.normal()

    make_steps(everybody, clock, 80, waits=[0, 0], passes=[1, 1], loss=loss)
    assert capsys.readouterr().out.startswith("the loss of step 60 is ")
    assert everybody[0].metrics() == {"train/spikes": 1.0}
    assert everybody[0].metrics() == {"train/spikes": 0.0}


def test_a_skipped_step_is_no_spike_and_disturbs_none(clock, capsys):
    everybody = faults_of(2)
    make_steps(
        everybody, clock, 80, waits=[0, 0], passes=[1, 1], loss=lambda step: 5.0 if step % 7 else float("nan")
    )
    assert capsys.readouterr().out == ""
    assert everybody[0].metrics() == {"train/spikes": 0.0}


def test_every_batch_of_an_evaluation_is_a_sign_of_life():
    (faults,) = faults_of(1)
    beats = []
    faults.watchdog.beat = lambda: beats.append(1)
    forward = faults.evaluating(lambda a, b: a + b)
    assert [forward(1, 2), forward(3, 4)] == [3, 7]
    assert beats == [1, 1]
