"""With `--train.canonical`, 1, 2, 3 and 4 workers learn the same bytes."""

import json
import operator
import queue
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qdet.config import override
from qdet.errors import ConfigError
from qdet.job import DataConfig, Job, TrainConfig
from qdet.training.engine.tree_sum import TreeSum
from tests.support.random_job import comparable_state, random_job
from tests.support.ranks import checkpoint, train_all

pytestmark = pytest.mark.timeout(900)


def sum_by_halves(values):
    """The literal definition: the sum of the first half, rounded up, plus that of the second."""
    if len(values) == 1:
        return values[0]
    middle = (len(values) + 1) // 2
    return sum_by_halves(values[:middle]) + sum_by_halves(values[middle:])


@given(ranks=st.integers(1, 6), each=st.integers(1, 7), seed=st.integers(0, 1000))
def test_any_ranks_add_over_the_same_tree(ranks, each, seed):
    generator = np.random.default_rng(seed)
    leaves = generator.normal(size=(ranks * each, 3)) * 10.0 ** generator.integers(-6, 6, (ranks * each, 1))
    mail = {(a, b): queue.Queue() for a in range(ranks) for b in range(ranks)}

    def add(rank):
        tree = TreeSum(
            len(leaves), rank=rank, size=ranks,
            send=lambda values, to: mail[rank, to].put(values.clone()),
            receive=lambda sender: mail[sender, rank].get(timeout=20),
        )  # fmt: skip
        for _ in range(2):  # the second time as if nothing had been before
            for leaf in range(rank * each, (rank + 1) * each):
                tree.add(torch.tensor(leaves[leaf], dtype=torch.float32))
            total = tree.finish()
        return total

    with ThreadPoolExecutor(ranks) as pool:
        first, *others = pool.map(add, range(ranks))
    assert first.numpy().tobytes() == sum_by_halves(leaves.astype(np.float32)).tobytes()
    assert others == [None] * (ranks - 1)


def test_a_dropped_step_leaves_nothing_in_the_tree():
    tree = TreeSum(2, rank=0, size=1, send=operator.call, receive=operator.call)
    tree.add(torch.ones(1))
    tree.clear()
    for value in (2.0, 3.0):
        tree.add(torch.tensor([value]))
    assert tree.finish() == torch.tensor([5.0])


def canonical_job(shards, workers, **changes):
    """Four steps of 6 micro-batches, with dropout, drop path, augmentation and averaged weights."""
    job = random_job(shards, zero=0, workers=workers)
    settings = {
        "train.canonical": 2,
        "train.steps": 4,
        "train.checkpoint_every": 2,
        "train.accelerator": "cpu",
        "optim.ema_decay": 0.9,
        "optim.clip_norm": 0.1,
    }
    return override(job, settings | changes)


@pytest.fixture(scope="module")
def stores(demo_shards, tmp_path_factory):
    """Where one and two workers trained the same job."""
    found = {}
    for workers in (1, 2):
        found[workers] = tmp_path_factory.mktemp(f"of{workers}")
        train_all(workers, {"run": canonical_job(demo_shards, workers)}, found[workers])
    return found


def logged(store):
    """Everything that was logged but times, as it was written."""
    points = json.loads((store / "run.json").read_text())
    kept = [
        (step, {k: v for k, v in values.items() if not k.startswith(("perf/", "eval/", "system/"))})
        for step, values in points
    ]
    return [(step, values) for step, values in kept if values]


def assert_same_run(one, other):
    for step in (2, 4):
        a, b = checkpoint(one, "run", step), checkpoint(other, "run", step)
        kinds = {name for name in a.shapes if not name.startswith("ledger/")}
        assert kinds == {name for name in b.shapes if not name.startswith("ledger/")}
        assert {name.split("/")[0] for name in kinds} == {"weights", "average", "exp_avg", "exp_avg_sq"}
        for name in kinds:
            assert a.whole(name).numpy().tobytes() == b.whole(name).numpy().tobytes(), name
        assert comparable_state(a) == comparable_state(b)


@pytest.mark.slow
@pytest.mark.ci_slow
def test_two_workers_learn_the_bytes_of_one(stores):
    assert_same_run(stores[1], stores[2])
    assert logged(stores[1]) == logged(stores[2])


@pytest.mark.slow
def test_a_run_resumed_with_three_workers_equals_one_that_never_stopped(stores, demo_shards, tmp_path):
    shutil.copytree(stores[2] / "run" / "step_000002", tmp_path / "run" / "step_000002")
    train_all(3, {"run": canonical_job(demo_shards, 3)}, tmp_path)
    assert_same_run(stores[1], tmp_path)
    assert logged(tmp_path) == [(step, values) for step, values in logged(stores[1]) if step > 2]


@pytest.mark.slow
def test_one_to_four_workers_learn_the_same_bytes(demo_shards, tmp_path):
    for workers in (1, 2, 3, 4):
        job = canonical_job(demo_shards, workers, **{"train.canonical": 1})
        train_all(workers, {"run": job}, tmp_path / str(workers))
        assert_same_run(tmp_path / "1", tmp_path / str(workers))
        assert logged(tmp_path / "1") == logged(tmp_path / str(workers))


@pytest.mark.slow
def test_without_it_two_workers_do_not(stores, demo_shards, tmp_path):
    """Else this file would prove nothing."""
    jobs = {"run": canonical_job(demo_shards, 2, **{"train.canonical": 0})}
    train_all(2, jobs, tmp_path)
    assert logged(tmp_path) != logged(stores[1])


TRAIN = partial(
    replace,
    TrainConfig(workers=2),
    batch_size=12,
    canonical=2,
    accelerator="cpu",
    zero="auto",
    accumulation=1,
)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"zero": 1}, "--train.canonical 2 needs --train.zero 0"),
        ({"accelerator": "auto"}, "needs --train.accelerator cpu"),
        ({"accelerator": "gpu"}, "needs --train.accelerator cpu"),
        ({"cpus_per_worker": 2}, "--train.cpus-per-worker 1"),
        ({"accumulation": 2}, "--train.accumulation 1"),
        ({"canonical": 5}, "must split --train.batch-size 12 evenly"),
        ({"canonical": -1}, "--train.canonical must be 0"),
        (
            {"workers": 4},
            "4 of --train.workers 4 cannot share 6 micro-batches evenly; 1, 2, 3, 6 workers",
        ),
        ({"workers": "2:7"}, "4, 5, 7 of --train.workers 2:7 cannot share"),
    ],
)
def test_what_cannot_be_canonical_is_refused_by_name(changes, said):
    with pytest.raises(ConfigError, match=said):
        TRAIN(**changes)


def test_data_without_a_plan_cannot_be_canonical():
    data = DataConfig(train="a", val="b", reading="sequential", samples=100)
    with pytest.raises(ConfigError, match=r"--train\.canonical 2 and --data\.reading sequential"):
        Job(name="x", data=data, train=TRAIN())


def test_the_passes_follow_from_the_micro_batches():
    assert [TRAIN().passes(workers) for workers in (1, 2, 3, 6)] == [6, 3, 2, 1]
    assert TRAIN(workers="1:3").micro_batches == 6
