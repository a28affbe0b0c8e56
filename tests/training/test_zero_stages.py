"""The engine: every ZeRO stage and number of ranks against plain PyTorch, and what a start is refused for."""

import pytest
import torch
from torch.nn.utils import clip_grad_norm_

from qdet.config import override
from qdet.data.loading.planned_stream import TrainStream
from qdet.data.loading.stream_config import StreamConfig
from qdet.data.shards.shard_set import ShardSet
from qdet.errors import CheckpointError, ConfigError
from qdet.job import Job
from qdet.losses import matched_objects
from qdet.tracking import NullTracker
from qdet.training.loop import train
from qdet.training.reporting import LocalReporter, Run
from tests.support.ranks import STEPS, checkpoint, losses, tiny_job, train_all


@pytest.fixture(scope="module")
def plain(demo_shards):
    """Losses of a literal PyTorch loop: one process, whole batches, torch's own AdamW."""
    job = tiny_job(demo_shards)
    torch.set_num_threads(1)
    torch.manual_seed(job.train.seed)
    shards = ShardSet.open(job.data.train)
    detector = job.detector.build(len(shards.categories)).train()
    criterion = job.loss.build(len(shards.categories))
    stream = TrainStream(shards, job.data.augment, StreamConfig(batch_size=8, seed=0))
    groups = {}
    for name, parameter in detector.named_parameters():
        rate = job.optim.lr * (0.5 if "backbone" in name else 1)
        decay = 0.0 if "norm" in name or name.endswith("bias") else 1e-4
        groups.setdefault((rate, decay), []).append(parameter)
    adamw = torch.optim.AdamW([{"params": p, "lr": r, "weight_decay": d} for (r, d), p in groups.items()])
    rates = [g["lr"] for g in adamw.param_groups]
    found = []
    for step, (batch,) in enumerate(stream.steps(0, STEPS)):
        warm = 0.001 + 0.999 * step / 5 if step < 5 else 1
        drop = 0.1 if step >= 3 * stream.steps_per_epoch else 1
        for group, rate in zip(adamw.param_groups, rates, strict=True):
            group["lr"] = rate * warm * drop
        divisor = float(max(matched_objects(batch.targets, 10), 1))
        loss = criterion(
            detector(batch.images, batch.sizes_hw), batch.targets, batch.sizes_hw, normalizer=divisor
        ).total
        adamw.zero_grad()
        loss.backward()
        clip_grad_norm_(detector.parameters(), job.optim.clip_norm)
        adamw.step()
        found.append(loss.item())
    assert found[-1] < found[0]
    return found


ON_TWO_RANKS = {
    "zero0": {"train.zero": 0},
    "zero1": {"train.zero": 1},
    "zero2": {"train.zero": 2},
    "accumulation": {"train.accumulation": 2},
    "recomputed": {"train.activation_checkpointing": True},
    # Last: DeepSpeed replaces torch's linear function for good once ZeRO-3 has run in a process.
    "zero3": {"train.zero": 3},
}


@pytest.fixture(scope="module")
def on_two_ranks(demo_shards, tmp_path_factory):
    jobs = {
        n: tiny_job(demo_shards, **changes, **{"train.workers": 2, "train.eval_every": 1})
        for n, changes in ON_TWO_RANKS.items()
    }
    return train_all(2, jobs, tmp_path_factory.mktemp("store"))


@pytest.mark.slow
@pytest.mark.ci_slow
@pytest.mark.parametrize("name", ["zero0", "zero1", "zero2", "zero3"])
def test_every_zero_stage_equals_plain_pytorch(plain, on_two_ranks, name):
    assert losses(on_two_ranks[name]) == pytest.approx(plain, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["zero1", "zero2", "zero3"])
def test_every_zero_stage_evaluates_the_same_average_between_steps(on_two_ranks, name):
    """Under ZeRO-3 DeepSpeed keeps parameters gathered, which must follow when averages take their place."""
    expected, found = on_two_ranks["zero0"], on_two_ranks[name]
    evaluated = [step for step, values in expected.items() if "val/AP" in values]
    assert len(evaluated) > 2
    for step in evaluated:
        assert found[step]["val/AP"] == pytest.approx(expected[step]["val/AP"], abs=1e-6)


@pytest.mark.slow
def test_micro_batches_and_recomputed_activations_change_nothing(plain, on_two_ranks):
    assert losses(on_two_ranks["accumulation"]) == pytest.approx(plain, rel=1e-5)
    assert losses(on_two_ranks["recomputed"]) == pytest.approx(plain, rel=1e-5)


@pytest.mark.slow
def test_one_process_and_four_make_the_same_steps(plain, demo_shards, tmp_path):
    short = {"train.steps": 4}
    one = train_all(1, {"one": tiny_job(demo_shards, **short)}, tmp_path)["one"]
    four = train_all(4, {"four": tiny_job(demo_shards, **short, **{"train.workers": 4})}, tmp_path)["four"]
    assert losses(four) == pytest.approx(losses(one), rel=1e-5)
    assert four[4]["val/AP"] == pytest.approx(one[4]["val/AP"], abs=1e-9)


@pytest.fixture(scope="module")
def finished(demo_shards, tmp_path_factory):
    """A run of two steps in this process: its job, its store, its metrics."""
    place = tmp_path_factory.mktemp("finished")
    job = tiny_job(demo_shards, **{"train.steps": 2})
    return job, place, train_all(1, {"run": job}, place)["run"]


def again(finished, changes):
    job, place, _ = finished
    run = Run(name="run", store=str(place))
    return train(override(job, changes), run=run, reporter=LocalReporter(), tracker=NullTracker())


def test_a_finished_run_only_evaluates_again(finished):
    result = again(finished, {})
    assert result.step == 2
    assert result.metrics["val/AP"] == finished[2][2]["val/AP"]


def test_changed_data_order_is_refused_on_resume(finished):
    with pytest.raises(
        CheckpointError, match=r"--train\.batch-size is 4, it was 8; --train\.seed is 5, it was 0"
    ):
        again(finished, {"train.seed": 5, "train.batch_size": 4})


def test_another_models_checkpoint_is_refused_on_resume(finished):
    with pytest.raises(CheckpointError, match=r"--detector\.stages is 3, it was 2"):
        again(finished, {"detector.stages": 3})


def test_training_starts_from_the_average_of_another_run(finished, demo_shards, tmp_path):
    _, place, _ = finished
    source = place / "run" / "step_000002"
    job = tiny_job(demo_shards, **{"store.init_from": str(source), "train.steps": 1, "optim.lr": 1e-12})
    train_all(1, {"fine": job}, tmp_path)
    average = checkpoint(place, "run", 2).all("average")
    weights = checkpoint(tmp_path, "fine", 1).all("weights")
    assert average
    for name, tensor in average.items():
        torch.testing.assert_close(weights[name], tensor, atol=1e-6, rtol=0)


def test_a_batch_that_does_not_split_is_refused():
    with pytest.raises(
        ConfigError, match=r"--train\.batch-size 16 must split evenly over --train\.workers 3"
    ):
        override(Job(name="x"), {"train.workers": 3})
