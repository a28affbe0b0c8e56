"""How a rank ends: no thread of gloo is left that would abort it while the interpreter shuts down."""

import atexit
import os
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from qdet.training.distributed import join
from tests.support.ranks import _train, on_ranks, tiny_job

HELD = []  # as DeepSpeed holds its groups


class SlowToGo:
    """Takes two seconds in the middle of the interpreter's shutdown."""

    def __del__(self, sleep=time.sleep):
        sleep(2)


def leave_the_last_sum_to_gloo(folder):
    """Rank 0 answers a sum a second late; rank 1 does not wait for it, and takes longer to shut down."""
    world = join("cpu", timeout=20)
    world.barrier()
    HELD.append(dist.group.WORLD)
    if world.main:
        time.sleep(1)
        world.sum(1.0)
    else:
        dist.all_reduce(torch.ones(1, dtype=torch.float64), async_op=True)
        sys.modules["__main__"].__dict__["last"] = SlowToGo()
    (folder / f"{world.rank}.txt").write_text("done")


def test_a_rank_exits_cleanly_while_gloo_still_holds_its_last_collective(tmp_path):
    on_ranks(2, leave_the_last_sum_to_gloo, tmp_path)  # raises if a rank ends by a signal
    assert [(tmp_path / f"{rank}.txt").read_text() for rank in (0, 1)] == ["done", "done"]


def train_and_list_the_threads(jobs, store):
    """Train `jobs`; once all that `join` registered has run at exit, write this rank's threads down."""
    atexit.register(list_threads, store / f"{os.environ['RANK']}.threads")  # first registered, last called
    _train(jobs, store)
    list_threads(store / f"{os.environ['RANK']}.before")


def list_threads(file):
    names = []
    for task in Path("/proc/self/task").iterdir():
        with suppress(OSError):  # it has ended meanwhile
            names.append(task.joinpath("comm").read_text())
    file.write_text("".join(names))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads are listed by Linux only")
def test_no_thread_of_gloo_outlives_a_training_of_any_zero_stage(demo_shards, tmp_path):
    changes = {"train.workers": 2, "train.steps": 2}
    jobs = {f"zero{z}": tiny_job(demo_shards, **changes, **{"train.zero": z}) for z in (0, 2, 3)}
    on_ranks(2, train_and_list_the_threads, jobs, tmp_path)
    for rank in (0, 1):
        assert "pt_gloo_runloop" in (tmp_path / f"{rank}.before").read_text()
        left = (tmp_path / f"{rank}.threads").read_text().split()
        assert not [name for name in left if "gloo" in name]
