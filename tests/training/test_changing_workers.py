"""A run whose number of workers changes, between steps of an epoch, learns what one worker would have."""

import pytest

from tests.support.ranks import losses, tiny_job, train_all

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

LEGS = (  # ranks, ZeRO stage, up to which step
    (3, 2, 3),
    (4, 1, 6),
    (1, 0, 8),
    (2, 3, 11),
    (4, 2, 14),
)


@pytest.fixture(scope="module")
def alone(demo_shards, tmp_path_factory):
    """Metrics of one worker, from the first step to the last."""
    job = tiny_job(demo_shards, **{"train.steps": LEGS[-1][2]})
    return train_all(1, {"alone": job}, tmp_path_factory.mktemp("alone"))["alone"]


def test_losses_do_not_depend_on_a_changing_number_of_workers(alone, demo_shards, tmp_path):
    found = {}
    for ranks, zero, until in LEGS:
        job = tiny_job(demo_shards, **{"train.workers": "1:4", "train.zero": zero, "train.steps": until})
        found |= train_all(ranks, {"moving": job}, tmp_path)["moving"]
    assert sorted(found) == sorted(alone)
    drift = [abs(a - b) / b for a, b in zip(losses(found), losses(alone), strict=True)]
    assert max(drift) < 1e-6, drift


def test_three_workers_take_no_larger_micro_batches_than_four(alone, demo_shards, tmp_path):
    job = tiny_job(demo_shards, **{"train.workers": "1:4", "train.steps": 4})
    assert job.train.passes(3) == 2
    three = train_all(3, {"three": job}, tmp_path)["three"]
    assert losses(three) == pytest.approx(losses(alone)[:4], rel=1e-6)
