"""What a rank measures of its own steps, and the signs of life that it gives."""

import time

import pytest
import torch
from torch import nn

from qdet.config import override
from qdet.job import Job
from qdet.training.distributed import World
from qdet.training.health.monitor import HealthMonitor


@pytest.fixture
def monitor():
    job = override(Job(name="x"), {"train.hang_after": 0})
    return HealthMonitor(job, World(rank=0, size=1, device=torch.device("cpu")), nn.Linear(1, 1))


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 0.0

    monkeypatch.setattr(time, "perf_counter", lambda: Clock.now)
    return Clock


def test_a_step_is_timed_by_its_wait_for_data_and_all_its_forward_passes(monitor, clock):
    def late():
        for seconds in (3.0, 0.5):
            clock.now += seconds
            yield seconds

    found = []
    for _ in monitor.waiting(late()):
        for _ in range(2):
            with monitor.forward():
                clock.now += 1.25
            clock.now += 100  # backward pass and update
        found.append(monitor.step_done())
    assert found == [(3.0, 2.5), (0.5, 2.5)]


def test_every_evaluation_batch_resets_the_watchdog(monitor):
    beats = []
    monitor.watchdog.beat = lambda: beats.append(1)
    forward = monitor.evaluating(lambda a, b: a + b)
    assert [forward(1, 2), forward(3, 4)] == [3, 7]
    assert beats == [1, 1]
