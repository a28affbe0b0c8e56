"""What any number of ranks wrote comes back bit for bit, whole or in parts, from wherever it lies."""

import json
import uuid

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from qdet.checkpoint import Checkpoint, open_folder, verify, write_whole
from qdet.errors import CheckpointError
from tests.support.small_checkpoints import assert_same, state, tensors, write


def whole(saved: Checkpoint) -> dict[str, torch.Tensor]:
    return {name: saved.whole(name) for name in saved.shapes}


@pytest.mark.parametrize("world", [1, 2, 3, 7])
@pytest.mark.parametrize("place", ["local", "memory"])
def test_tensors_state_and_job_round_trip(tmp_path, place, world):
    folder = open_folder(tmp_path / "c" if place == "local" else f"memory://{uuid.uuid4()}/c")
    written = write(folder, world=world, metrics={"val/AP": 0.25})
    saved = Checkpoint(folder)
    assert_same(whole(saved), written)
    assert saved.state == state()
    assert saved.job == {"name": "x", "detector": "DETRConfig"}
    assert (saved.manifest.world_size, saved.manifest.metrics) == (world, {"val/AP": 0.25})
    assert saved.names("average") == ["stem.weight", "stem.bias", "scale"]
    assert torch.equal(saved.model()["stem.bias"], written["average/stem.bias"])
    assert torch.equal(saved.model(averaged=False)["stem.bias"], written["weights/stem.bias"])


@settings(max_examples=40, deadline=None)
@given(world=st.integers(1, 5), ends=st.tuples(st.integers(0, 21), st.integers(0, 21)))
def test_reading_a_part_equals_slicing_the_whole(world, ends):
    folder = open_folder(f"memory://{uuid.uuid4()}")
    written = write(folder, world=world)
    share = range(min(ends), max(ends))
    part = Checkpoint(folder).part("weights/stem.weight", share)
    assert torch.equal(part, written["weights/stem.weight"].flatten()[share.start : share.stop])


def test_files_are_those_of_safetensors_and_hold_equal_shares(tmp_path):
    written = write(open_folder(tmp_path), world=4)
    files = [load_file(path) for path in sorted(tmp_path.glob("*.safetensors"))]
    assert len(files) == 4
    total = sum(t.numel() * t.element_size() for t in written.values())
    for file in files:
        assert sum(t.numel() * t.element_size() for t in file.values()) == pytest.approx(total / 4, abs=16)


def test_the_manifest_lists_every_other_file(tmp_path):
    write(open_folder(tmp_path))
    listed = json.loads((tmp_path / "manifest.json").read_text())["files"]
    assert set(listed) == {p.name for p in tmp_path.iterdir()} - {"manifest.json"}
    assert {name: p["bytes"] for name, p in listed.items()} == {
        p.name: p.stat().st_size for p in tmp_path.iterdir() if p.name != "manifest.json"
    }


def test_one_process_writes_what_it_holds_whole(tmp_path):
    folder = open_folder(tmp_path / "c")
    write_whole(folder, tensors(), state=state(), job={"name": "x"})
    verify(folder)
    assert_same(whole(Checkpoint(folder)), tensors())


def test_pieces_that_do_not_make_a_whole_are_refused_by_name(tmp_path, monkeypatch):
    from tests.support import small_checkpoints

    shares = small_checkpoints.even_shares
    monkeypatch.setattr(
        small_checkpoints, "even_shares", lambda t, *, rank, world: shares(t, rank=0, world=world)
    )
    write(open_folder(tmp_path), world=2)  # both ranks write the first half
    with pytest.raises(CheckpointError, match=r"twice|lacks"):
        Checkpoint(open_folder(tmp_path))


def test_a_tensor_that_is_not_there_is_named(tmp_path):
    write(open_folder(tmp_path))
    with pytest.raises(CheckpointError, match=r"has no tensor weights/head"):
        Checkpoint(open_folder(tmp_path)).whole("weights/head")


def test_a_url_that_nothing_opens_is_refused():
    with pytest.raises(CheckpointError, match=r"gopher://host/store cannot be opened"):
        open_folder("gopher://host/store")
