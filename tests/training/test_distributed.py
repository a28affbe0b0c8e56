"""What ranks do together: a long task on one keeps the others waiting, however short their timeout."""

import time

import pytest

from qdet.errors import DataError
from qdet.training.distributed import join
from tests.support.ranks import on_ranks

TIMEOUT = 5  # seconds


def long_task(folder):
    world = join("cpu", timeout=TIMEOUT)
    before = time.monotonic()
    value = world.on_main(lambda: time.sleep(TIMEOUT + 4) or world.rank)
    waited = time.monotonic() - before
    with pytest.raises(DataError, match="no such shard"):
        world.on_main(lambda: refuse("no such shard"))
    (folder / f"{world.rank}.txt").write_text(f"{value} {waited > TIMEOUT + 3}")


def refuse(why):
    raise DataError(why)


@pytest.mark.slow
def test_ranks_wait_for_rank_0_beyond_their_timeout_and_share_its_error(tmp_path):
    on_ranks(2, long_task, tmp_path)
    assert [(tmp_path / f"{rank}.txt").read_text() for rank in (0, 1)] == ["0 True", "0 True"]
