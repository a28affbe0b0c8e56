"""An allocation that fails in a step ends the run with one line: the part, the batch, what to change."""

import pytest
import torch

from qdet.errors import ConfigError
from qdet.losses import SetLoss
from qdet.training import step
from qdet.training.engine.plain import PlainEngine
from tests.support.ranks import tiny_job, train_all

PARTS = {
    "forward pass": (PlainEngine, "__call__"),
    "matching and loss": (SetLoss, "__call__"),
    "backward pass": (PlainEngine, "backward"),
    "optimizer update": (PlainEngine, "step"),
}


def _allocate_too_much(*_, **__):
    torch.empty(2**62, dtype=torch.uint8)  # the system refuses it


def _fail_as_a_gpu_does(*_, **__):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


@pytest.mark.parametrize("fail", [_allocate_too_much, _fail_as_a_gpu_does])
@pytest.mark.parametrize("part", PARTS)
def test_the_part_the_batch_and_the_flags_are_named(demo_shards, tmp_path, monkeypatch, part, fail):
    monkeypatch.setattr(*PARTS[part], fail)
    with pytest.raises(ConfigError) as raised:
        train_all(1, {"run": tiny_job(demo_shards)}, tmp_path)
    said = str(raised.value)
    assert said.startswith(f"out of memory in the {part} of 8 images padded to 64 x 64, with ")
    assert "\n" not in said
    assert "--data.augment.max-size" in said
    assert ("--train.auto-batch" in said) == (part != "optimizer update")
    assert ("--train.zero 2" in said) == (part == "optimizer update")


def test_one_image_cannot_be_split(demo_shards, tmp_path, monkeypatch):
    monkeypatch.setattr(PlainEngine, "backward", _allocate_too_much)
    with pytest.raises(ConfigError, match="of 1 image padded to") as raised:
        train_all(1, {"run": tiny_job(demo_shards, **{"train.batch_size": 1})}, tmp_path)
    assert "--train.accumulation" not in str(raised.value)


def test_other_errors_stay_as_they_are(demo_shards, tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError("a kernel failed")

    monkeypatch.setattr(step, "denoise_batch", fail)
    with pytest.raises(RuntimeError, match="a kernel failed"):
        train_all(1, {"run": tiny_job(demo_shards)}, tmp_path)
