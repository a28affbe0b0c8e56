"""Steps that are not finite: skipped everywhere, the same again after a restart, looked into, and counted."""

import json
import math
import re
import shutil
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.utils import clip_grad_norm_

from qdet.data.loading.planned_stream import TrainStream
from qdet.data.loading.stream_config import StreamConfig
from qdet.errors import DivergedError
from qdet.launching.commands.runs.step_replay import replay
from qdet.losses import matched_objects
from qdet.training import loop
from qdet.training.nonfinite.skip import IN_A_ROW, SkippedSteps, nan_grad_if_nonfinite, nonfinite_loss
from qdet.training.reporting import LocalReporter, Run
from qdet.training.step import StepMaker
from qdet.types import Predictions
from tests.support.faulty_ranks import train_on_corrupt_batches
from tests.support.ranks import Recorder, assert_same, checkpoint, on_ranks, tiny_job
from tests.support.small_checkpoints import state as saved_state

STEPS = 6
CORRUPT = {2: (1, "boxes"), 5: (1, "sizes")}
"""Which step goes wrong on which rank, one before the checkpoint of step 3 and one after it."""
JOBS = {
    "zero0": {"train.zero": 0},
    "zero1": {"train.zero": 1, "train.accumulation": 2},
    "zero2": {"train.zero": 2},
    # Last: DeepSpeed replaces torch's linear function for good once ZeRO-3 has run in a process.
    "zero3": {"train.zero": 3},
}


@given(st.floats(allow_nan=True, allow_infinity=True, width=32), st.floats(-3, 3, width=32))
def test_a_nonfinite_loss_makes_its_gradient_nan_and_finite_ones_keep_theirs(value, weight):
    ours, theirs = (torch.tensor(weight, requires_grad=True) for _ in range(2))
    loss = nan_grad_if_nonfinite(ours * 2 + torch.tensor(value))
    loss.backward()
    (theirs * 2 + torch.tensor(value)).backward()
    if math.isfinite(float(theirs.detach() * 2 + torch.tensor(value))):
        assert torch.equal(loss, theirs * 2 + torch.tensor(value))
        assert torch.equal(ours.grad, theirs.grad)
    else:
        assert torch.isnan(ours.grad)


def test_nonfinite_predictions_give_every_parameter_a_nan_gradient():
    weights = torch.zeros(2, requires_grad=True)
    logits, boxes = torch.full((1, 3, 2), torch.nan) * weights, torch.ones(1, 3, 4) * weights.sum()
    nonfinite_loss([Predictions(logits, boxes), Predictions(logits, boxes)]).total.backward()
    assert torch.isnan(weights.grad).all()


@given(st.integers(0, 8), st.lists(st.booleans(), max_size=40), st.integers(0, 40))
def test_a_run_ends_at_one_skip_too_many_or_three_in_a_row_also_across_a_resume(most, bad, resume):
    def last_step(resumes):
        skipped = SkippedSteps(most)
        for step, is_bad in enumerate(bad, start=1):
            if step in resumes:
                before, skipped = skipped, SkippedSteps(most)
                skipped.restore(replace(saved_state(), **before.state()))
            try:
                if is_bad:
                    skipped.record(step, "the cause")
            except DivergedError:
                return step, skipped.steps
        return len(bad), skipped.steps

    steps = [step for step, is_bad in enumerate(bad, start=1) if is_bad]
    too_many = steps[most] if len(steps) > most else math.inf
    row = next((s for s in steps if {s - i for i in range(IN_A_ROW)} <= set(steps)), math.inf)
    assert last_step(()) == last_step((resume,))
    assert last_step(())[0] == min(too_many, row, len(bad))


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(("zero3",), marks=[pytest.mark.slow, pytest.mark.ci_slow]),
        pytest.param(("zero0", "zero1", "zero2"), marks=pytest.mark.slow),
    ],
    ids=" and ".join,
)
def jobs(request, demo_shards):
    shared = {"train.steps": STEPS, "train.workers": 2, "train.checkpoint_every": 3, "optim.ema_decay": 0.9}
    return {name: tiny_job(demo_shards, **shared, **JOBS[name]) for name in request.param}


@pytest.fixture(scope="module")
def store(jobs, tmp_path_factory):
    """Runs of both ZeRO stages on two ranks, with a bad batch on one of them in two steps."""
    place = tmp_path_factory.mktemp("store")
    on_ranks(2, train_on_corrupt_batches, CORRUPT, jobs, place)
    return place


def metrics(store, name):

    found = {}
    for step, values in json.loads((store / f"{name}.json").read_text()):
        found.setdefault(step, {}).update(values)
    return found


@pytest.fixture(scope="module")
def plain(demo_shards):
    """Losses of a literal PyTorch loop that leaves those steps out."""
    job = tiny_job(demo_shards, **{"train.steps": STEPS})
    torch.set_num_threads(1)
    torch.manual_seed(job.train.seed)
    shards = job.data.open(job.data.train)
    classes = len(shards.categories)
    detector, criterion = job.detector.build(classes).train(), job.loss.build(classes)
    groups = []
    for name, parameter in detector.named_parameters():
        rate = job.optim.lr * (0.5 if "backbone" in name else 1)
        decay = 0.0 if "norm" in name or name.endswith("bias") else 1e-4
        groups.append({"params": [parameter], "lr": rate, "weight_decay": decay})
    adamw = torch.optim.AdamW(groups)
    peaks = [group["lr"] for group in adamw.param_groups]
    found = {}
    stream = TrainStream(shards, job.data.augment, StreamConfig(batch_size=8, seed=0))
    for step, (batch,) in enumerate(stream.steps(0, STEPS), start=1):
        if step in CORRUPT:
            continue
        for group, peak in zip(adamw.param_groups, peaks, strict=True):
            group["lr"] = peak * (0.001 + 0.999 * (step - 1) / 5 if step <= 5 else 1)
        stages = detector(batch.images, batch.sizes_hw)
        divisor = float(max(matched_objects(batch.targets, 10), 1))
        loss = criterion(stages, batch.targets, batch.sizes_hw, normalizer=divisor).total
        adamw.zero_grad()
        loss.backward()
        clip_grad_norm_(detector.parameters(), job.optim.clip_norm)
        adamw.step()
        found[step] = loss.item()
    return found


def test_a_nonfinite_step_on_one_rank_is_skipped_on_all(store, plain, jobs):
    for name in jobs:
        points = metrics(store, name)
        for step, loss in plain.items():
            assert points[step]["train/loss"] == pytest.approx(loss, rel=1e-5)
        for step in CORRUPT:
            assert "train/loss" not in points[step]
        assert [points[step]["train/skipped_steps"] for step in sorted(points)] == [0, 1, 1, 1, 2, 2]
        saved = checkpoint(store, name, STEPS)
        assert list(saved.state.skipped) == list(CORRUPT)
        assert saved.state.updates == saved.state.ema_updates == STEPS - len(CORRUPT)
        for tensor in saved.shapes:
            assert torch.isfinite(saved.whole(tensor)).all(), tensor


@pytest.fixture(scope="module")
def resumed(jobs, store, tmp_path_factory):
    """The same runs, stopped at step 3 and resumed."""
    place = tmp_path_factory.mktemp("resumed")
    for name in jobs:
        shutil.copytree(store / name / "step_000003", place / name / "step_000003")
    on_ranks(2, train_on_corrupt_batches, CORRUPT, jobs, place)
    return place


@pytest.mark.slow
@pytest.mark.ci_slow
def test_a_resumed_run_skips_the_same_step_and_ends_bitwise_the_same(store, resumed, jobs):
    for name in jobs:
        assert sorted(metrics(resumed, name)) == [4, 5, 6]
        assert_same(checkpoint(store, name, STEPS), checkpoint(resumed, name, STEPS))
        assert list(checkpoint(resumed, name, STEPS).state.skipped) == list(CORRUPT)


def test_a_nonfinite_step_is_saved_and_replayed_to_its_cause(store, jobs):
    for name, job in jobs.items():
        files = sorted(path.name for path in (store / name).glob("bad_step*"))
        assert files == [f"bad_step_{step:06d}_rank_1.safetensors" for step in CORRUPT]
        boxes, sizes = (replay(store / name / file) for file in files)
        assert f"step 2 of job {job.name}, by worker 1 of 2" in boxes
        assert "the first that is not finite: the loss, whose predictions are all finite" in boxes
        assert "the first that is not finite: the output of" in sizes


def test_three_nonfinite_steps_in_a_row_end_the_run_and_say_what_to_change(demo_shards, tmp_path, capsys):
    bad = dict.fromkeys((2, 3, 4), (0, "boxes"))
    job = tiny_job(demo_shards, **{"train.steps": 8})
    with pytest.raises(DivergedError, match=r"steps 2, 3, 4 were skipped in a row.*--optim\.lr"):
        train_on_corrupt_batches(bad, {"run": job}, tmp_path)
    cause = r"the loss, whose predictions are all finite on worker 0 \(host .*\) was the first .* images \d+"
    said = capsys.readouterr().out
    assert len(re.findall(rf"step [234] is skipped on all workers: {cause}", said)) == 3
    assert len(list((tmp_path / "run").glob("bad_step_*_rank_0.safetensors"))) == 3


def test_a_gradient_that_overflows_once_is_skipped_and_reported_as_transient(
    demo_shards, tmp_path, monkeypatch, capsys
):
    sound, calls = StepMaker._forward, []

    def too_steep(maker, batch, divisors):
        made = sound(maker, batch, divisors)
        calls.append(1)
        factor = 1e30 if len(calls) == 2 else 1.0
        return type(made)(made.total * factor, made.terms)

    monkeypatch.setattr(StepMaker, "_forward", too_steep)
    job = tiny_job(demo_shards, **{"train.steps": 3})
    loop.train(job, run=Run("run", str(tmp_path)), reporter=LocalReporter(), tracker=Recorder())
    said = capsys.readouterr().out
    assert (
        "step 2 is skipped on all workers: all losses were finite, and computed again all is finite" in said
    )
    assert not list((tmp_path / "run").glob("bad_step*"))
    assert list(checkpoint(tmp_path, "run", 3).state.skipped) == [2]


def test_a_job_that_allows_no_skip_ends_at_the_first(demo_shards, tmp_path):
    job = tiny_job(demo_shards, **{"train.steps": 4, "train.max_skips": 0})
    with pytest.raises(DivergedError, match=r"1 steps were skipped.*--train\.max-skips allows 0"):
        train_on_corrupt_batches({1: (0, "boxes")}, {"run": job}, tmp_path)
