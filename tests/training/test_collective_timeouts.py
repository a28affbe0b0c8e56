"""A rank that waits for another gives up in time, in whichever group it waits."""

from datetime import timedelta

import pytest

from tests.support.faulty_ranks import wait_for_one_that_sleeps
from tests.support.ranks import on_ranks


@pytest.mark.slow
@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_the_timeout_reaches_every_group_and_ends_the_wait_for_a_rank_that_sleeps(zero, tmp_path):
    on_ranks(2, wait_for_one_that_sleeps, zero, 5, tmp_path)
    for rank in (0, 1):
        groups = (tmp_path / f"groups{rank}.txt").read_text().split("\n")
        assert set(groups) == {str(timedelta(seconds=5))}
        assert zero == 0 or len(groups) > 1  # DeepSpeed makes some of its own
    assert "timed out" in (tmp_path / "rank0.txt").read_text().lower()
