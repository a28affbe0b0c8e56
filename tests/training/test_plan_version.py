"""A qdet version that would order a run's images differently refuses to resume it."""

import dataclasses

import pytest

from qdet.checkpoint import TrainState, open_folder
from qdet.checkpoint.reading import Peek
from qdet.config import flatten
from qdet.data.plan.epoch import PLAN_VERSION
from qdet.errors import CheckpointError
from qdet.job import Job
from qdet.training.checkpointing.compatibility import check_unchanged

STATE = TrainState(
    step=3,
    updates=3,
    ema_updates=0,
    seed=0,
    batch_size=16,
    data_digest="d",
    plan_version=PLAN_VERSION,
    categories={"names": ["a"], "ids": [1]},
    git_commit="abc",
)


def test_another_plan_version_is_refused(tmp_path):
    job = Job(name="a")
    saved = Peek(open_folder(str(tmp_path)), STATE, flatten(job))
    assert check_unchanged(saved, job, "d") == ()
    other = dataclasses.replace(saved, state=dataclasses.replace(STATE, plan_version=PLAN_VERSION + 1))
    with pytest.raises(CheckpointError, match=rf"started with version {PLAN_VERSION + 1}.*\(commit abc\)"):
        check_unchanged(other, job, "d")


def test_states_without_a_plan_version_are_of_the_first():
    content = dataclasses.asdict(STATE)
    del content["plan_version"]
    assert TrainState.from_json(content).plan_version == 1
