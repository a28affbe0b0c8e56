"""A run of one engine resumes in the other: plain torch and DeepSpeed, on one rank and on two."""

import shutil

import pytest

from tests.support.ranks import checkpoint, losses, tiny_job, train_all

SHORT = {"train.steps": 6, "train.checkpoint_every": 3, "optim.ema_decay": 0.9}


def job(shards, *, zero, workers):
    return tiny_job(shards, **SHORT, **{"train.zero": zero, "train.workers": workers})


@pytest.fixture(scope="module")
def on_two(demo_shards, tmp_path_factory):
    place = tmp_path_factory.mktemp("two")
    jobs = {f"zero{zero}": job(demo_shards, zero=zero, workers=2) for zero in (0, 1)}
    return place, train_all(2, jobs, place)


def halve(place, run, into):
    shutil.copytree(place / run / "step_000003", into / run / "step_000003")


@pytest.mark.ci_slow
@pytest.mark.slow
def test_two_ranks_resume_in_the_other_engine(on_two, demo_shards, tmp_path):
    place, whole = on_two
    jobs = {f"zero{zero}": job(demo_shards, zero=1 - zero, workers=2) for zero in (0, 1)}
    for run in jobs:
        halve(place, run, tmp_path)
    for run, points in train_all(2, jobs, tmp_path).items():
        assert losses(points) == pytest.approx(losses(whole[run])[3:], rel=1e-5)
        assert checkpoint(tmp_path, run, 6).state.updates == 6


@pytest.mark.slow
@pytest.mark.ci_slow
def test_a_sharded_run_resumes_on_one_rank_without_deepspeed(on_two, demo_shards, tmp_path):
    place, whole = on_two
    halve(place, "zero1", tmp_path)
    one = train_all(1, {"zero1": job(demo_shards, zero=1, workers=1)}, tmp_path)["zero1"]
    assert sorted(one) == [4, 5, 6]
    assert losses(one) == pytest.approx(losses(whole["zero1"])[3:], rel=1e-5)
