"""Where workers go: the kind of GPU, packed or spread, and how long they wait for each other."""

import pytest

from qdet.config import override
from qdet.errors import ConfigError
from qdet.job import Job
from qdet.launching.ray_backend import capacity
from qdet.launching.ray_backend.capacity import Node
from qdet.launching.ray_backend.train import _build_trainer
from qdet.training.reporting import Run

A, H = frozenset({"A100"}), frozenset({"H100"})
NODES = [Node(64.0, 8.0, A), Node(64.0, 4.0, H), Node(64.0, 0.0)]


def _job(**changes: object) -> Job:
    return override(Job(name="x"), {"train.workers": 6, "train.batch_size": 12} | changes)


@pytest.mark.parametrize(
    ("changes", "gpu", "room"),
    [
        ({}, True, 12),
        ({"train.gpu_type": "A100"}, True, 8),
        ({"train.gpu_type": "H100"}, None, 4),  # and no CPU in its place
        ({"train.gpu_type": "H100", "train.workers": 4}, True, 4),
        ({"train.gpu_type": "H100", "train.workers": "2:6"}, True, 4),
        ({"train.gpu_type": "B200"}, None, 0),
    ],
)
def test_only_nodes_with_the_kind_of_gpu_count(changes, gpu, room):
    train = _job(**changes).train
    assert capacity.choose_gpu(NODES, train) is gpu
    assert capacity.count_room(NODES, train, gpu=True) == room


def test_a_shortage_names_the_kind(monkeypatch):
    train = _job(**{"train.gpu_type": "H100"}).train
    assert capacity.explain_shortage(NODES, train) == "needs 6 H100 workers, the cluster has 4"
    monkeypatch.setattr(capacity, "list_nodes", lambda: NODES)
    said = capacity._shortage(train)
    assert "6 of 1 CPU and 1 H100 each, but the cluster has room for 4" in said
    assert "GPUs: A100, H100" in said


def test_a_kind_of_gpu_on_cpus_is_refused():
    with pytest.raises(
        ConfigError, match=r"--train\.gpu-type A100 does not go with --train\.accelerator cpu"
    ):
        _job(**{"train.gpu_type": "A100", "train.accelerator": "cpu"})


@pytest.mark.parametrize("gpu", [True, False])
def test_ray_train_gets_all_of_it(gpu, tmp_path, monkeypatch):
    from qdet.launching.ray_backend import train as backend

    monkeypatch.setattr(backend, "is_single_machine", lambda: True)
    monkeypatch.setattr(backend, "worker_environment", lambda job, gpu: {})
    job = _job(
        **{
            "train.gpu_type": "A100",
            "train.placement": "spread",
            "train.join_timeout": 900,
            "train.timeout": 7,
        }
    )
    trainer = _build_trainer(
        job, Run("run", str(tmp_path)), gpu=gpu, ray_callbacks=(), callbacks=(), output=None
    )
    scaling = trainer.scaling_config
    assert (scaling.placement_strategy, scaling.accelerator_type) == ("SPREAD", "A100" if gpu else None)
    assert trainer.backend_config.timeout_s == 900


def test_ranks_wait_for_each_other_as_long_as_the_job_says(monkeypatch):
    """Longer than a collective may take, which is set once all have joined."""
    from qdet.training import distributed

    given = {}
    monkeypatch.setattr(distributed.dist, "is_initialized", lambda: False)
    monkeypatch.setattr(distributed, "_open_store", lambda secret, timeout: given.update(store=timeout))
    monkeypatch.setattr(
        distributed, "enter_group", lambda store, backend, timeout: given.update(group=timeout)
    )
    monkeypatch.setattr(distributed.atexit, "register", lambda call: None)
    monkeypatch.setattr(distributed.dist, "get_rank", lambda: 0)
    monkeypatch.setattr(distributed.dist, "get_world_size", lambda: 1)
    distributed.join("cpu", timeout=7, patience=900)
    assert given == {"store": 900, "group": 900}
