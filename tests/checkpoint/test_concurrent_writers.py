"""Writers that should not be there any more: workers given up for dead, and what a killed one left behind."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from qdet.checkpoint import Checkpoint, Piece, open_folder, verify
from qdet.checkpoint.pieces import cut, even_shares
from qdet.checkpoint.writing import commit, write_share
from qdet.errors import CheckpointError
from tests.support.small_checkpoints import assert_same, contents, tensors, write


def share(whole, *, rank, world):
    found = even_shares(whole, rank=rank, world=world)
    return [Piece(name, part.start, cut(whole[name], part)) for name, part in found.items()]


def whole(folder):
    saved = Checkpoint(folder)
    return {name: saved.whole(name) for name in saved.shapes}


@pytest.fixture
def folder(tmp_path):
    return open_folder(tmp_path / "step_000300")


def test_a_worker_declared_dead_cannot_touch_its_successors_files(folder):
    old, new = tensors(1), tensors(2)
    write_share(folder, rank=0, attempt="old0", pieces=share(old, rank=0, world=2))
    written = write(folder, world=3, attempt="new0", seed=2)
    assert_same(written, new)
    write_share(folder, rank=1, attempt="old0", pieces=share(old, rank=1, world=2))  # it wakes up
    verify(folder)
    assert_same(whole(folder), new)


def test_a_worker_declared_dead_that_completes_leaves_a_valid_checkpoint(folder):
    write(folder, world=3, attempt="new0", seed=2)
    write(folder, world=2, attempt="old0", seed=1)
    assert_same(whole(folder), tensors(1))
    assert Checkpoint(folder).manifest.world_size == 2


def test_concurrent_attempts_leave_one_whole_checkpoint(folder):
    with ThreadPoolExecutor(4) as pool:
        attempts = [pool.submit(write, folder, world=4, attempt=f"a{n}", seed=n) for n in range(4)]
    assert all(attempt.exception() is None for attempt in attempts)
    seed = int(verify(folder).attempt[1])
    assert_same(whole(folder), tensors(seed))


def test_shares_of_another_attempt_do_not_count(folder):
    everything = tensors()
    write_share(folder, rank=0, attempt="new0", pieces=share(everything, rank=0, world=2))
    write_share(folder, rank=1, attempt="old0", pieces=share(everything, rank=1, world=2))
    with pytest.raises(CheckpointError, match="the share of rank 1 is not there"):
        commit(folder, contents(everything, world=2, attempt="new0"), patience=0.1)
    with pytest.raises(CheckpointError, match="no manifest"):
        verify(folder)


def test_files_of_a_killed_attempt_are_ignored(folder):
    write_share(folder, rank=0, attempt="dead", pieces=share(tensors(1), rank=0, world=2))
    folder.local.joinpath("rank_00001.dead.safetensors").write_bytes(b"half a share")
    written = write(folder, world=2, attempt="new0")
    assert_same(whole(folder), written)
    assert [name for name in folder.names() if name.endswith("new0.json")] == [
        "job.new0.json",
        "state.new0.json",
        "tensors.new0.json",
    ]


def test_a_vanished_share_is_noticed_before_the_manifest_is_written(folder):
    everything = tensors()
    for rank in range(2):
        write_share(folder, rank=rank, attempt="a", pieces=share(everything, rank=rank, world=2))
    folder.remove("rank_00001.a.safetensors")
    with pytest.raises(CheckpointError, match=r"rank_00001\.a\.safetensors was there and is gone"):
        commit(folder, contents(everything, world=2, attempt="a"))
    assert "manifest.json" not in folder.names()


def test_a_manifest_waits_for_the_slowest_share(folder):
    everything = tensors()
    late = threading.Timer(
        0.3, write_share, (folder,), {"rank": 1, "attempt": "a", "pieces": share(everything, rank=1, world=2)}
    )
    late.start()
    write_share(folder, rank=0, attempt="a", pieces=share(everything, rank=0, world=2))
    commit(folder, contents(everything, world=2, attempt="a"), patience=30.0)
    assert_same(whole(folder), everything)


def test_waiting_for_shares_ends_at_once_when_a_rank_has_failed(folder):
    give_up = threading.Event()
    give_up.set()
    with pytest.raises(CheckpointError, match="a rank could not write its share"):
        commit(folder, contents(tensors(), world=2), give_up=give_up, patience=30.0)
