"""Checkpoints: what was written comes back, what was damaged does not, a full disk leaves none behind."""

import errno
import json

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from qdet.errors import CheckpointError
from qdet.training import checkpoint
from qdet.training.checkpoint import Checkpoint, TrainState
from qdet.training.reporting import LocalReporter, Run

STATE = TrainState(
    step=300,
    ema_updates=300,
    seed=1,
    batch_size=16,
    data_digest="abc",
    categories={"names": ["a"], "ids": [7]},
)


def sample(scale=1.0):
    module = nn.Linear(4, 3)
    weights = {n: p.detach() * scale for n, p in module.named_parameters()}
    moments = {f"{k}/{n}": torch.rand_like(p) for k in ("exp_avg", "exp_avg_sq") for n, p in weights.items()}
    return Checkpoint(weights=weights, moments=moments, average=weights, state=STATE, job={"name": "x"})


def test_round_trip_is_exact(tmp_path):
    written = sample()
    checkpoint.write(tmp_path / "c", written)
    read = checkpoint.read(tmp_path / "c")
    assert read.state == written.state
    assert read.job == written.job
    for part in ("weights", "moments", "average"):
        for name, tensor in getattr(written, part).items():
            assert torch.equal(getattr(read, part)[name], tensor)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    file=st.sampled_from(["weights", "average", "moments"]),
    where=st.floats(0, 1, exclude_max=True),
    cut=st.booleans(),
)
def test_any_damage_is_named(tmp_path, file, where, cut):
    folder = tmp_path / "c"
    checkpoint.write(folder, sample())
    path = folder / f"{file}.safetensors"
    content = bytearray(path.read_bytes())
    at = int(where * len(content))
    if cut:
        path.write_bytes(content[:at])
    else:
        content[at] ^= 0x10
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match=f"{file}.safetensors is damaged"):
        checkpoint.read(folder)


def test_without_its_manifest_it_is_no_checkpoint(tmp_path):
    checkpoint.write(tmp_path, sample())
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match=r"no manifest\.json"):
        checkpoint.read(tmp_path)


def test_a_full_disk_is_named_and_leaves_no_manifest(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(CheckpointError, match=r"No space left on device.*--store\.path"):
        checkpoint.write(tmp_path / "c", sample())
    assert not checkpoint.is_complete(tmp_path / "c")


def test_another_models_checkpoint_is_refused_by_name(tmp_path):
    module = nn.Linear(4, 5)
    weights = {"weight": torch.zeros(3, 4), "bias": torch.zeros(5), "extra": torch.zeros(1)}
    with pytest.raises(
        CheckpointError, match=r"another model.*1 are unknown, such as extra.*weight is \(3, 4\)"
    ):
        checkpoint.load_weights(module, weights, source=tmp_path)


def reporter(tmp_path, keep=1):
    return LocalReporter(Run(name="run", store=str(tmp_path / "store")), keep=keep)


def hand_over(to, tmp_path, step):
    checkpoint.write(tmp_path / "new", sample(step))
    to.checkpoint(tmp_path / "new", step=step, metrics={})


def test_the_newest_undamaged_checkpoint_is_taken(tmp_path):
    local = reporter(tmp_path)
    assert local.latest_checkpoint() is None
    for step in (100, 200):
        hand_over(local, tmp_path, step)
    assert local.latest_checkpoint().name == "step_000200"
    damaged = local.latest_checkpoint() / "weights.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    assert local.latest_checkpoint().name == "step_000100"


def test_old_checkpoints_go(tmp_path):
    local = reporter(tmp_path, keep=1)
    for step in (1, 2, 3, 4):
        hand_over(local, tmp_path, step)
    assert sorted(p.name for p in local.folder.iterdir()) == ["step_000003", "step_000004"]


def test_manifest_lists_every_file(tmp_path):
    checkpoint.write(tmp_path, sample())
    listed = json.loads((tmp_path / "manifest.json").read_text())["files"]
    assert set(listed) == {p.name for p in tmp_path.iterdir()} - {"manifest.json"}
