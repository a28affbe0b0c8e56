"""A learning rate that follows the batch size: the rule, and where its reference comes from."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qdet.config import override
from qdet.errors import ConfigError
from qdet.job import Job
from qdet.launching import cli
from qdet.recipes import Recipe
from qdet.training.optim import Schedule

JOB = override(Job(name="x"), {"train.batch_size": 16, "train.workers": 1})


def _peak(job: Job) -> float:
    """The highest learning rate of a training of ten epochs of 100 steps, past its warm-up."""
    schedule = Schedule(override(job, {"optim.warmup_steps": 5}), 100)
    return job.optim.lr * max(schedule.lr_factor(step) for step in range(0, 1000, 5))


@given(st.sampled_from([2, 4, 8, 32, 64, 1024]), st.floats(1e-6, 1e-2))
def test_the_rules(batch, lr):
    def scaled(rule: str) -> float:
        changes = {
            "optim.scale_lr": rule,
            "optim.lr_batch_size": 16,
            "train.batch_size": batch,
            "optim.lr": lr,
        }
        return _peak(override(JOB, changes))

    assert scaled("none") == pytest.approx(lr)
    assert scaled("linear") == pytest.approx(lr * batch / 16)
    assert scaled("sqrt") ** 2 == pytest.approx(lr**2 * batch / 16)


def test_it_is_off_by_default_and_the_reference_is_the_job_files_own_batch():
    def read(*flags: str) -> Job:
        return cli.parse(Recipe(job=JOB), flags)

    assert _peak(read("--train.batch-size", "64")) == pytest.approx(JOB.optim.lr)
    job = read("--train.batch-size", "64", "--optim.scale-lr", "linear")
    assert job.optim.lr_batch_size == 16
    assert _peak(job) == pytest.approx(4 * JOB.optim.lr)
    job = read("--train.batch-size", "64", "--optim.scale-lr", "sqrt", "--optim.lr-batch-size", "256")
    assert _peak(job) == pytest.approx(JOB.optim.lr / 2)
    with pytest.raises(ConfigError, match=r"--optim\.lr-batch-size must be at least 1"):
        override(JOB, {"optim.lr_batch_size": 0})


def test_a_trial_of_another_batch_size_has_its_own_rate():
    job = cli.parse(Recipe(job=JOB), ["--optim.scale-lr", "linear"])
    assert _peak(override(job, {"train.batch_size": 8})) == pytest.approx(JOB.optim.lr / 2)
