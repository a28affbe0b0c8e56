"""`--train.zero auto`: the lowest stage that fits, and no DeepSpeed for one rank."""

import sys
from itertools import pairwise

import torch
from hypothesis import given
from hypothesis import strategies as st

from qdet.training.distributed import World
from qdet.training.engine.averaging import cut_into_buckets
from qdet.training.engine.stage import STAGES, choose_stage, memory_per_rank, settle_stage
from tests.support.ranks import on_ranks, tiny_job, train_all

GIB = 2**30


@given(st.integers(1, 10**9), st.floats(0.1, 1), st.integers(2, 64), st.booleans(), st.floats(0.1, 200))
def test_auto_takes_the_lowest_stage_that_fits_into_a_third(parameters, share, ranks, average, gib):
    def memory(stage):
        trained = int(parameters * share)
        return memory_per_rank(parameters, trained, zero=stage, ranks=ranks, average=average).total

    stage = choose_stage(memory, available=gib * GIB)
    fitting = [s for s in STAGES if 3 * memory(s) <= gib * GIB]
    assert stage == (fitting[0] if fitting else 3)


def test_one_rank_keeps_the_whole_state_whatever_stage_is_named():
    whole = memory_per_rank(100, 80, zero=0, ranks=1, average=True)
    assert all(memory_per_rank(100, 80, zero=s, ranks=1, average=True) == whole for s in STAGES)


def test_auto_becomes_a_number_and_says_why(demo_shards, capsys):
    job = tiny_job(demo_shards, **{"train.zero": "auto"})
    settled = settle_stage(job, World(0, 1, torch.device("cpu")), classes=3)
    assert settled.train.zero == 0
    assert "--train.zero auto: stage 0; weights, gradients" in capsys.readouterr().out
    named = tiny_job(demo_shards, **{"train.zero": 2})
    assert settle_stage(named, World(0, 1, torch.device("cpu")), classes=3) is named


def _train_and_list_modules(job, place):
    train_all(1, {"run": job}, place)
    (place / "modules.txt").write_text("\n".join(sys.modules))


def test_one_rank_trains_without_deepspeed(demo_shards, tmp_path):
    job = tiny_job(demo_shards, **{"train.steps": 1, "train.zero": 2})
    on_ranks(1, _train_and_list_modules, job, tmp_path, apart=True)
    modules = (tmp_path / "modules.txt").read_text().split("\n")
    assert "qdet.training.engine.plain" in modules
    assert "deepspeed" not in modules


@given(st.lists(st.integers(1, 40), max_size=20), st.integers(4, 160))
def test_buckets_hold_every_parameter_once_the_last_first_and_no_more_than_they_may(sizes, most):
    parameters = [torch.nn.Parameter(torch.zeros(size)) for size in sizes]
    buckets = cut_into_buckets(parameters, most=most)
    assert [id(p) for bucket in buckets for p in bucket] == [id(p) for p in reversed(parameters)]
    for bucket in buckets:
        assert len(bucket) == 1 or sum(4 * p.numel() for p in bucket) <= most
    for before, after in pairwise(buckets):
        assert sum(4 * p.numel() for p in [*before, after[0]]) > most
