"""What a full-size step gives a GPU to do, part by part: a change that makes it more fails here."""

import pytest

from benchmarks.roofline import Cost, count_step

AT_MOST = {  # launches, GB
    "normalize": (14, 2.0),
    "backbone": (230, 57.5),
    "neck": (20, 7.0),
    "decoder": (500, 5.4),
    "attention": (150, 4.0),
    "sampling": (330, 25.5),
    "mixing": (120, 41.0),
    "loss": (105, 0.3),
    "matching": (155, 0.2),
    "backward": (1500, 204.0),
    "optimizer": (20, 2.8),
}


@pytest.fixture(scope="module")
def costs() -> dict[str, Cost]:
    return count_step()


@pytest.mark.parametrize("part", AT_MOST)
def test_no_part_of_a_step_gets_more_expensive(costs, part):
    launches, gigabytes = AT_MOST[part]
    assert costs[part].launches <= launches
    assert costs[part].bytes <= gigabytes * 1e9


def test_every_operation_belongs_to_a_part(costs):
    assert set(costs) == set(AT_MOST)
    flops = sum(cost.flops for cost in costs.values())
    assert flops == pytest.approx(11.31e12, rel=0.01)  # more would be another detector
