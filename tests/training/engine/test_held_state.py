"""What a dry run says of the state of each rank, against the tensors that two ranks hold."""

import json
from dataclasses import replace

import pytest

from qdet.config import override
from qdet.training.engine.stage import memory_per_rank
from tests.support.held_state import measure
from tests.support.ranks import on_ranks, tiny_job

JOBS = {"zero0": (0, 1), "zero1": (1, 1), "zero1_of_two_passes": (1, 2), "zero2": (2, 1), "zero3": (3, 1)}
"""ZeRO stage and passes of a step. 3 last: DeepSpeed replaces torch's linear function for good then."""


@pytest.fixture(scope="module")
def held(tmp_path_factory):
    """Counts of each job, with a detector of 3.5 million parameters."""
    base, place = tiny_job(tmp_path_factory.getbasetemp()), tmp_path_factory.mktemp("held")
    changes = {"detector": replace(base.detector, width=96, feature_width=96), "train.workers": 2}
    jobs = {
        name: override(base, changes | {"train.zero": stage, "train.accumulation": passes})
        for name, (stage, passes) in JOBS.items()
    }
    on_ranks(2, measure, jobs, place)
    return {name: json.loads((place / f"{name}.json").read_text()) for name in jobs}


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("name", JOBS)
def test_the_state_of_a_rank_takes_what_a_dry_run_says(held, name):
    """When the last gradient has arrived, buckets under way to the other rank left out."""
    found, (stage, passes) = held[name], JOBS[name]
    assert found["arrived"] > 50 * passes
    counts = found["parameters"], found["trained"]
    expected = memory_per_rank(*counts, zero=stage, ranks=2, average=True, passes=passes)
    assert found["last"] == pytest.approx(expected.total, rel=0.1)
