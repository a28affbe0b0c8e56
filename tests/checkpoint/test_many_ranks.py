"""What completing a checkpoint of a thousand ranks asks of its store."""

import dataclasses
import json

import pytest
import torch

from qdet.checkpoint.manifest import read_manifest
from qdet.checkpoint.pieces import Piece
from qdet.checkpoint.rank_file import fingerprint
from qdet.checkpoint.run_folder import open_folder
from qdet.checkpoint.state import TrainState
from qdet.checkpoint.writing import Contents, commit, share_name, write_share
from qdet.errors import CheckpointError
from qdet.storage import Folder
from qdet.storage.remote import RemoteFiles
from tests.support.counting_files import CountingFiles

RANKS = 1000
STATE = TrainState(
    step=10,
    updates=10,
    ema_updates=0,
    seed=0,
    batch_size=16,
    data_digest="d",
    plan_version=1,
    categories={"names": ["a"], "ids": [1]},
    git_commit=None,
)


@pytest.fixture
def files():
    return CountingFiles(expected=RANKS)


@pytest.fixture
def folder(files):
    """A checkpoint whose shares are all there; they need no more content than their reports say."""
    folder = Folder("s3://bucket/run/step_000010", RemoteFiles(files), "/bucket/run/step_000010")
    for rank in range(RANKS):
        name, content = f"{folder.path}/{share_name(rank, 'aa')}", b"%d" % rank
        files.pipe_file(f"{name}.safetensors", content)
        report = dataclasses.asdict(fingerprint(content)) | {"attempt": "aa"}
        files.pipe_file(f"{name}.json", json.dumps(report).encode())
    return folder


def contents(ranks):
    return Contents(attempt="aa", world_size=ranks, state=STATE, job={}, shapes={})


def test_a_thousand_ranks_are_completed_in_at_most_fifty_rounds(files, folder):
    files.counting()
    manifest = commit(folder, contents(RANKS))
    assert files.rounds <= 50
    assert files.requests["GET"] == files.requests["DELETE"] == RANKS
    assert files.requests["LIST"] <= 4
    files.counting(on=False)
    assert read_manifest(folder) == manifest
    assert len(manifest.rank_files) == RANKS
    assert set(folder.names()) == {*manifest.files, "manifest.json"}  # no report is left


def test_a_share_that_was_cut_off_or_is_gone_is_found_without_asking_for_each(files, folder):
    files.store[f"{folder.path}/{share_name(7, 'aa')}.safetensors"].truncate(0)
    with pytest.raises(CheckpointError, match=r"rank_00007\.aa\.safetensors was there and is gone"):
        commit(folder, contents(RANKS))
    assert "manifest.json" not in folder.names()


def test_many_files_on_this_machine_are_read_and_removed(tmp_path):
    folder = open_folder(tmp_path)
    for rank in range(3):
        write_share(folder, rank=rank, attempt="aa", pieces=[Piece("weights/w", rank, torch.zeros(1))])
    assert folder.sizes() == {name: (tmp_path / name).stat().st_size for name in folder.names()}
    names = [f"{share_name(rank, 'aa')}.json" for rank in range(3)]
    assert [json.loads(said)["attempt"] for said in folder.read_each(names)] == ["aa"] * 3
    with pytest.raises(FileNotFoundError):
        folder.read_each([*names, "missing"])
    folder.remove_each([*names, "missing"])
    assert not set(folder.names()) & set(names)
    assert open_folder(tmp_path / "nowhere").sizes() == {}
