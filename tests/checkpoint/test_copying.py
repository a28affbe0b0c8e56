"""A checkpoint that is copied into another run: the same bytes, and it counts there."""

import hashlib
from pathlib import Path

import pytest

from qdet.checkpoint import Checkpoint, RunFolder, copying, open_folder, verify
from qdet.checkpoint.copying import copy_checkpoint, is_copy
from qdet.errors import CheckpointError, LeaseError
from qdet.storage.lease import hold
from tests.support import small_checkpoints


def _digests(folder: Path) -> list[str]:
    files = [file for file in folder.iterdir() if file.name != "manifest.json"]
    return sorted(hashlib.sha256(file.read_bytes()).hexdigest() for file in files)


def test_the_copy_has_the_same_bytes_and_replaces_what_was_there(tmp_path):
    theirs, ours = tmp_path / "a/step_000300", tmp_path / "b/step_000300"
    given = {"world": 3, "attempt": "t1-aa", "seed": 1, "metrics": {"x": 0.5}}
    tensors = small_checkpoints.write(open_folder(theirs), **given)
    small_checkpoints.write(open_folder(ours), world=2, attempt="t1-bb", seed=2)
    before = verify(open_folder(ours))
    copied = copy_checkpoint(open_folder(theirs), open_folder(ours))
    assert _digests(ours) == _digests(theirs)
    source = verify(open_folder(theirs))
    assert verify(open_folder(ours)) == copied
    assert (copied.metrics, copied.world_size) == ({"x": 0.5}, 3)
    assert is_copy(copied, source)
    assert not is_copy(before, source)
    small_checkpoints.assert_same(Checkpoint(open_folder(ours)).all("weights"), {
        name.removeprefix("weights/"): t for name, t in tensors.items() if name.startswith("weights/")
    })  # fmt: skip
    again = copy_checkpoint(open_folder(theirs), open_folder(ours))
    assert is_copy(again, copied)
    assert _digests(ours) == _digests(theirs)


def test_an_interrupted_copy_leaves_what_was_there(tmp_path, monkeypatch):
    theirs, ours = tmp_path / "a/step_000300", tmp_path / "b/step_000300"
    small_checkpoints.write(open_folder(theirs), seed=1)
    small_checkpoints.write(open_folder(ours), attempt="bbbb", seed=2)
    before = verify(open_folder(ours))

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(copying, "put_manifest", killed)
    with pytest.raises(KeyboardInterrupt):
        copy_checkpoint(open_folder(theirs), open_folder(ours))
    assert verify(open_folder(ours)) == before


def test_a_damaged_source_is_refused(tmp_path):
    theirs, ours = tmp_path / "a/step_000300", tmp_path / "b/step_000300"
    small_checkpoints.write(open_folder(theirs), seed=1)
    tensors = theirs / "rank_00001.aaaa.safetensors"
    content = bytearray(tensors.read_bytes())
    content[-1] ^= 1
    tensors.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"rank_00001\.aaaa\.safetensors is damaged"):
        copy_checkpoint(open_folder(theirs), open_folder(ours))
    assert not (ours / "manifest.json").exists()


def test_a_copy_counts_in_a_run_that_was_restarted_more_often_than_the_other(tmp_path):
    """The other's driver held term 1; this run's second driver resumed from an earlier step."""
    theirs, run = tmp_path / "a/step_000300", open_folder(tmp_path / "b")
    small_checkpoints.write(open_folder(theirs), attempt="t1-aa")
    for start in (100, 200):
        with hold(run) as held:
            RunFolder(run, held.fence).begin(start)
    with hold(run) as held:
        copy_checkpoint(open_folder(theirs), run.child("step_000300"), fence=held.fence)
    said: list[str] = []
    with hold(run) as held:
        newest = RunFolder(run, held.fence).newest_good(said.append)
    assert newest is not None
    assert (newest.name, said) == ("step_000300", [])
    with hold(run), pytest.raises(LeaseError):  # of a later term
        copy_checkpoint(open_folder(theirs), run.child("step_000300"), fence=held.fence)
