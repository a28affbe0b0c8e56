"""Ranges of workers, and how a global batch is shared by any number of them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qdet.config import override
from qdet.errors import ConfigError
from qdet.job import Job
from qdet.train_config import check_batch, passes_per_step, worker_range


@pytest.mark.parametrize(("given", "meant"), [(8, (8, 8)), ("8", (8, 8)), ("2:8", (2, 8)), ("3:3", (3, 3))])
def test_numbers_and_ranges_of_workers_parse(given, meant):
    assert worker_range(given) == meant


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("four", "number such as 8"),
        ("1:2:3", "range such as 2:8"),
        (0, "at least 1"),
        ("4:2", "try 2:4"),
        ("-1", "number"),
    ],
)
def test_malformed_worker_ranges_are_refused(given, said):
    with pytest.raises(ConfigError, match=said):
        worker_range(given)


@settings(deadline=None)
@given(st.integers(1, 64), st.integers(1, 8), st.data())
def test_fewer_workers_take_no_larger_micro_batches(most, accumulation, data):
    batch = data.draw(st.integers(most * accumulation, 600))
    workers = data.draw(st.integers(1, most))
    passes = passes_per_step(batch, workers, most=most, accumulation=accumulation)
    largest_share = -(-batch // workers)
    assert -(-largest_share // passes) <= -(-batch // (most * accumulation))
    assert passes == 1 or -(-largest_share // (passes - 1)) > -(-batch // (most * accumulation))


def test_at_the_most_workers_accumulation_is_what_the_job_says():
    for batch, workers, accumulation in ((16, 8, 1), (16, 4, 2), (64, 4, 4)):
        assert passes_per_step(batch, workers, most=workers, accumulation=accumulation) == accumulation


def test_the_batch_must_divide_by_the_workers_or_by_one_of_their_range():
    check_batch(16, 4, 1)
    check_batch(16, "1:3", 1)
    for workers in (3, "3:3", "5:7"):
        with pytest.raises(ConfigError, match="must split evenly over"):
            check_batch(16, workers, 1)
    with pytest.raises(ConfigError, match="every worker needs an image"):
        check_batch(4, "1:8", 1)


def test_a_job_knows_its_range():
    job = override(Job(name="x"), {"train.workers": "2:8"})
    assert (job.train.least_workers, job.train.most_workers) == (2, 8)
    assert job.train.passes(8) == 1
    assert job.train.passes(3) == 3
    with pytest.raises(ConfigError, match=r"--train\.workers 3"):
        override(Job(name="x"), {"train.workers": 3})
