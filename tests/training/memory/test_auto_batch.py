"""`--train.auto-batch`: the fewest passes that fit, the same step, and no others when memory is enough."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qdet.config import override
from qdet.errors import ConfigError
from qdet.job import Job
from qdet.training.distributed import World
from qdet.training.memory import auto_batch, trial
from qdet.training.memory.auto_batch import first_fitting, list_splits, settle_batch
from qdet.training.memory.trial import CountedTrial, MeasuredTrial
from qdet.training.streams import build_stream, load_largest
from tests.support.ranks import losses, on_ranks, tiny_job, train_all

CPU = World(0, 1, torch.device("cpu"))


@given(st.integers(0, 200), st.integers(0, 200))
def test_the_first_that_fits_is_found(count, threshold):
    fitting = [i for i in range(count) if i >= threshold]
    assert first_fitting(count, lambda i: i >= threshold) == (fitting[0] if fitting else count)


@given(st.integers(1, 96), st.integers(1, 6), st.integers(0, 3), st.integers(1, 3), st.data())
def test_every_split_is_a_valid_job_and_each_holds_fewer_images(batch, least, wider, accumulation, data):
    workers = f"{least}:{least + wider}"
    try:
        changes = {"train.batch_size": batch, "train.workers": workers, "train.accumulation": accumulation}
        job = override(Job(name="x"), changes)
    except ConfigError:
        return
    ranks = data.draw(st.integers(least, least + wider))
    splits = list_splits(job, ranks)
    assert [s.passes for s in splits] == sorted({s.passes for s in splits})
    for split in splits:
        train = override(job, {"train.accumulation": split.accumulation}).train
        assert train.passes(ranks) == split.passes
        shares = [len(part) for part in np.array_split(np.arange(batch), ranks)]
        parts = [len(p) for n in shares for p in np.array_split(np.arange(n), split.passes)]
        assert max(parts) == split.images
        assert min(parts) >= 1
    if splits and ranks * job.train.passes(ranks) <= batch:
        assert splits[0].passes == job.train.passes(ranks)


def test_the_largest_step_of_all_epochs_is_tried(demo_shards):
    changes = {"data.augment.sizes": (32, 64, 96), "data.augment.max_size": 96, "train.steps": 30}
    job = tiny_job(demo_shards, **changes)
    shards = job.data.open_train()
    largest = load_largest(job, shards=shards, world=CPU).images
    pixels = [b.images[0, 0].numel() for (b,) in build_stream(job, shards, CPU).steps(0, 30)]
    assert len(set(pixels)) > 1
    assert largest[0, 0].numel() == max(pixels)


def _needed(job):
    shards = job.data.open_train()
    batch = load_largest(job, shards=shards, world=CPU)
    return CountedTrial(job, CPU, len(shards.categories)).needed(batch)


@pytest.fixture
def little_memory(demo_shards, monkeypatch):
    """As much as four images take, less one byte."""
    enough, less = (_needed(tiny_job(demo_shards, **{"train.accumulation": n})) for n in (2, 4))
    assert less < enough
    monkeypatch.setattr(auto_batch, "device_memory", lambda world: (enough - 1) / auto_batch.USABLE)


def test_with_little_memory_the_batch_is_split(demo_shards, little_memory, capsys):
    job = tiny_job(demo_shards, **{"train.auto_batch": True})
    settled = settle_batch(job, CPU, classes=_classes(job), load=_loader(job))
    assert settled == override(job, {"train.accumulation": 4})
    said = capsys.readouterr().out
    assert "--train.auto-batch: 2 at a time in each of 1 workers, 4 passes per step (counted" in said
    assert "--train.accumulation 4 says the same" in said


@pytest.mark.slow
def test_a_run_that_splits_its_batch_learns_the_same(demo_shards, tmp_path, little_memory):
    job = tiny_job(demo_shards, **{"train.steps": 4})
    jobs = {
        "auto": override(job, {"train.auto_batch": True}),
        "named": override(job, {"train.accumulation": 4}),
        "whole": job,
    }
    found = train_all(1, jobs, tmp_path)
    assert losses(found["auto"]) == losses(found["named"])
    assert losses(found["auto"]) == pytest.approx(losses(found["whole"]), rel=1e-5)


def test_with_enough_memory_nothing_is_split(demo_shards, capsys):
    job = tiny_job(demo_shards, **{"train.auto_batch": True})
    settled = settle_batch(job, CPU, classes=_classes(job), load=_loader(job))
    assert settled.train.accumulation == 1
    assert "8 at a time" in capsys.readouterr().out
    named = tiny_job(demo_shards)
    assert settle_batch(named, CPU, classes=_classes(job), load=_loader(job)) is named


def test_an_image_that_does_not_fit_is_refused(demo_shards, monkeypatch):
    job = tiny_job(demo_shards, **{"train.auto_batch": True})
    monkeypatch.setattr(auto_batch, "device_memory", lambda world: 1000.0)
    with pytest.raises(
        ConfigError, match=r"smallest split, 8 passes per step of 1 images, takes 0\.\d\d GiB"
    ):
        settle_batch(job, CPU, classes=_classes(job), load=_loader(job))


def _classes(job):
    return len(job.data.open_train().categories)


def _loader(job):
    shards = job.data.open_train()
    return lambda cut: load_largest(cut, shards=shards, world=CPU)


def test_a_measured_pass_finds_what_an_allocation_refuses_and_changes_no_random_numbers(
    demo_shards, monkeypatch
):
    job = tiny_job(demo_shards, **{"train.auto_batch": True, "optim.ema_decay": 0.9})
    taken, real = [], trial.denoise_batch

    def denoise(config, batch, classes):
        taken.append(len(batch))
        if len(batch) > 2:
            torch.empty(2**62, dtype=torch.uint8)  # the system refuses it
        return real(config, batch, classes)

    monkeypatch.setattr(trial, "denoise_batch", denoise)
    monkeypatch.setattr(auto_batch, "CountedTrial", MeasuredTrial)
    before = torch.get_rng_state()
    settled = settle_batch(job, CPU, classes=_classes(job), load=_loader(job))
    assert torch.equal(torch.get_rng_state(), before)
    assert settled.train.passes(1) == 4
    assert 2 in taken


def test_another_error_of_a_trial_is_not_taken_for_too_little_memory(demo_shards, monkeypatch):
    job = tiny_job(demo_shards)

    def fail(*_):
        raise RuntimeError("an illegal memory access was encountered")

    monkeypatch.setattr(trial, "denoise_batch", fail)
    with pytest.raises(RuntimeError, match="illegal"):
        MeasuredTrial(job, CPU, _classes(job)).needed(_loader(job)(job))


def _settle_with_less_on_one(job, place):
    from qdet.training.distributed import join

    world = join("cpu", timeout=60)
    four = (_needed(job) - 1) / auto_batch.USABLE  # one rank would make two passes of as many
    auto_batch.device_memory = lambda w: (2.0**40, four)[w.rank]
    shards = job.data.open_train()

    def load(cut):
        return load_largest(cut, shards=shards, world=world)

    settled = settle_batch(job, world, classes=len(shards.categories), load=load)
    (place / str(world.rank)).write_text(str(settled.train.accumulation))


@pytest.mark.slow
def test_the_rank_with_least_memory_decides(demo_shards, tmp_path):
    job = tiny_job(demo_shards, **{"train.auto_batch": True, "train.workers": 2, "train.zero": 0})
    on_ranks(2, _settle_with_less_on_one, job, tmp_path)
    chosen = [(tmp_path / str(rank)).read_text() for rank in range(2)]
    assert chosen == ["2", "2"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data.reading": "sequential"}, "none: give --train.accumulation N"),
        ({"data.pad": "rank"}, "would depend on the memory of a device"),
        (
            {"train.canonical": 2, "train.accelerator": "cpu", "train.workers": 1},
            "--train.auto-batch chooses them",
        ),
    ],
)
def test_what_a_choice_by_memory_would_change_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        override(Job(name="x"), {"train.auto_batch": True} | changes)
