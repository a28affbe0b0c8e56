"""What a full-size step gives a GPU to do, part by part: a change that makes it more fails here."""

import pytest

from benchmarks.roofline import Cost, count_step

AT_MOST = {  # launches, GB
    "normalize": (14, 2.0),
    "backbone": (176, 57.5),
    "neck": (12, 7.0),
    "decoder": (260, 5.4),
    "attention": (116, 2.0),
    "sampling": (266, 25.5),
    "mixing": (98, 41.0),
    "loss": (103, 0.3),
    "matching": (54, 0.2),
    "backward": (1215, 202.0),
    "optimizer": (16, 2.8),
}
WITH_KERNELS = AT_MOST | {
    "decoder": (260, 7.6),  # with the maps laid out for the kernel
    "attention": (37, 0.6),
    "sampling": (37, 5.3),
    "mixing": (31, 8.6),
    "loss": (80, 0.1),
    "backward": (780, 93.0),
}
BOUNDS = {False: AT_MOST, True: WITH_KERNELS}


@pytest.fixture(scope="module", params=[False, True], ids=["torch", "kernels"])
def counted(request) -> tuple[dict[str, Cost], dict[str, tuple[int, float]]]:
    """Costs of a step by part, and their bounds."""
    return count_step(kernels=request.param), BOUNDS[request.param]


@pytest.mark.parametrize("part", AT_MOST)
def test_no_part_of_a_step_gets_more_expensive(counted, part):
    costs, bounds = counted
    launches, gigabytes = bounds[part]
    assert costs[part].launches <= launches
    assert costs[part].bytes <= gigabytes * 1e9


def test_every_operation_belongs_to_a_part(counted):
    costs, _ = counted
    assert set(costs) == set(AT_MOST)
    flops = sum(cost.flops for cost in costs.values())
    assert flops == pytest.approx(11.35e12, rel=0.01)  # more would be another detector


def test_kernels_move_less_than_200_gigabytes_in_1500_launches(counted):
    costs, bounds = counted
    moved = sum(cost.bytes for cost in costs.values())
    launches = sum(cost.launches for cost in costs.values())
    assert (moved < 200e9) == (launches <= 1500) == (bounds is WITH_KERNELS)
