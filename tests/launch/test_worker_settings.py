"""What Ray's workers start with."""

import pytest

from qdet.allocator import ONE_KEPT_HEAP
from qdet.job import Job
from qdet.launching.ray_backend import worker_settings


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch):
    monkeypatch.setattr(worker_settings, "_all_on_loopback", lambda: True)


@pytest.mark.parametrize("gpu", [False, True])
def test_workers_on_cpus_keep_memory_for_the_next_step(gpu):
    variables = worker_settings.worker_environment(Job(name="tiny"), gpu=gpu)
    assert (ONE_KEPT_HEAP.items() <= variables.items()) == (not gpu)
