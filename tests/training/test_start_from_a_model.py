"""A training that starts from a trained model: at every ZeRO stage, and once only."""

import shutil

import pytest
import torch

from qdet.checkpoint import Checkpoint, open_folder
from qdet.checkpoint.reading import export
from qdet.data.shards.shard_set import ShardSet
from tests.support import small_models
from tests.support.ranks import checkpoint, tiny_job, train_all

STILL = {"train.steps": 1, "optim.lr": 1e-12, "optim.ema_decay": 0.5}


@pytest.fixture
def run(demo_shards, tmp_path):
    """A run of the tiny detector for three classes; the first of its two checkpoints is the best."""
    folder, job = tmp_path / "outputs" / "earlier", tiny_job(demo_shards)
    small_models.write_checkpoint(folder, step=3, job=job, seed=1, averaged=True, metrics={"val/AP": 0.5})
    small_models.write_checkpoint(folder, step=9, job=job, seed=2, metrics={"val/AP": 0.1})
    return folder


def assert_started(shards, saved, source):
    """Compare with the model row by row; the step made moved nothing by more than rounding."""
    names = ShardSet.open(str(shards / "train")).categories.names
    fresh = build_fresh(shards, len(names))
    assert set(names) & set(small_models.NAMES)
    for kind in ("weights", "average"):
        for name, tensor in saved.all(kind).items():
            for row in range(len(tensor)) if "class_head" in name else [...]:
                if row is ... or names[row] in small_models.NAMES:
                    expected = source[name][row if row is ... else small_models.NAMES.index(names[row])]
                else:
                    expected = fresh[name][row]
                torch.testing.assert_close(tensor[row], expected, atol=1e-9, rtol=0)


def build_fresh(shards, classes):
    job = tiny_job(shards)
    torch.manual_seed(job.train.seed)
    return job.detector.build(classes).state_dict()


@pytest.mark.slow
def test_every_zero_stage_starts_from_the_same_rows(run, demo_shards, tmp_path, capfd):
    changes = STILL | {"train.workers": 2, "store.init_from": str(run)}
    jobs = {f"zero{z}": tiny_job(demo_shards, **changes, **{"train.zero": z}) for z in (0, 1, 2, 3)}
    train_all(2, jobs, tmp_path)
    source = Checkpoint(open_folder(run / "step_000003")).model()
    for name in jobs:
        assert_started(demo_shards, checkpoint(tmp_path, name, 1), source)
    said = capfd.readouterr().out
    assert (
        said.count(f"starting from {run / 'step_000003'}: averaged weights after step 3, val/AP 0.5000") == 4
    )
    assert said.count("class head: kept ") == len(jobs)


def test_an_exported_file_and_a_resumed_run(run, demo_shards, tmp_path):
    saved = Checkpoint(open_folder(run / "step_000003"))
    export(saved, tmp_path / "model.safetensors")
    source = saved.model()
    job = tiny_job(demo_shards, **STILL, **{"store.init_from": str(tmp_path / "model.safetensors")})
    train_all(1, {"fine": job}, tmp_path)
    assert_started(demo_shards, checkpoint(tmp_path, "fine", 1), source)
    shutil.rmtree(run)
    (tmp_path / "model.safetensors").unlink()
    longer = tiny_job(demo_shards, **{**STILL, "train.steps": 2, "store.init_from": job.store.init_from})
    train_all(1, {"fine": longer}, tmp_path)
    assert_started(demo_shards, checkpoint(tmp_path, "fine", 2), source)
