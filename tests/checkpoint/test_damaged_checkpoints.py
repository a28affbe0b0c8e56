"""Damage: no cut and no flipped bit in any file goes unseen, and the newest whole checkpoint is taken."""

import json
import random

import pytest

from qdet.checkpoint import Checkpoint, RunFolder, open_folder, verify
from qdet.errors import CheckpointError
from tests.support.small_checkpoints import write

TRIALS = 100


@pytest.fixture
def run(tmp_path):
    """A run with checkpoints after 100 and 200 steps."""
    found = RunFolder(open_folder(tmp_path / "run"))
    for step in (100, 200):
        write(found.at(step), world=3, step=step, seed=step)
    return found


def newest(run, said=None):
    found = RunFolder(run.folder).newest_good((said if said is not None else []).append)
    return None if found is None else found.name


def damaged_files(run, rng):
    """Return a file of the newest checkpoint, each as likely as the other, `TRIALS` times."""
    files = sorted(run.at(200).local.iterdir())
    assert len(files) == 7
    return [files[rng.randrange(len(files))] for _ in range(TRIALS)]


def test_no_truncated_file_is_ever_accepted(run):
    rng = random.Random(0)
    for path in damaged_files(run, rng):
        content = path.read_bytes()
        path.write_bytes(content[: rng.randrange(len(content))])
        said = []
        assert newest(run, said) == "step_000100", path
        assert path.name in said[0]
        path.write_bytes(content)
    assert newest(run) == "step_000200"


def test_no_flipped_bit_is_ever_accepted(run):
    rng = random.Random(1)
    for path in damaged_files(run, rng):
        content = path.read_bytes()
        flipped = bytearray(content)
        flipped[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        path.write_bytes(flipped)
        said = []
        assert newest(run, said) == "step_000100", path
        assert path.name in said[0]
        path.write_bytes(content)
    assert newest(run) == "step_000200"


def test_every_byte_of_the_manifest_counts(run):
    path = run.at(200).local / "manifest.json"
    content = path.read_bytes()
    for at in range(len(content)):
        path.write_bytes(content[:at] + bytes([content[at] ^ 0x20]) + content[at + 1 :])
        with pytest.raises(CheckpointError, match=r"manifest\.json"):
            verify(run.at(200))


@pytest.mark.parametrize("pattern", ["rank_00001*", "state*", "job*", "tensors*"])
def test_a_missing_file_is_named(run, pattern):
    (path,) = run.at(200).local.glob(pattern)
    path.unlink()
    said = []
    assert newest(run, said) == "step_000100"
    assert f"{path.name} is missing" in said[0]


def test_a_folder_without_manifest_is_no_checkpoint(run):
    (run.at(200).local / "manifest.json").unlink()
    said = []
    assert newest(run, said) == "step_000100"
    assert "no manifest.json" in said[0]
    with pytest.raises(CheckpointError, match=r"no manifest\.json"):
        Checkpoint(run.at(200))


def test_a_run_with_only_incomplete_folders_starts_over_but_one_with_damaged_checkpoints_does_not(run):
    for step in (100, 200):
        (run.at(step).local / "manifest.json").unlink()
    assert newest(run) is None
    for step in (100, 200):
        (run.at(step).local / "manifest.json").write_text("{")
    with pytest.raises(CheckpointError, match="none of the 2 checkpoints"):
        newest(run)
    assert newest(RunFolder(run.folder.child("new"))) is None


def test_another_format_is_not_reported_as_damage(run):
    path = run.at(200).local / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 1}))
    with pytest.raises(CheckpointError, match="has format 1, this version of qdet reads 2"):
        verify(run.at(200))


def test_bytes_changed_in_transit_are_detected():
    folder = open_folder("memory://on-its-way/step_000001")
    write(folder, step=1)
    name = next(n for n in folder.names() if n.startswith("rank_00001"))
    content = bytearray(folder.read(name))
    content[-1] ^= 1
    folder.put(name, bytes(content))
    with pytest.raises(CheckpointError, match=f"{name} is damaged"):
        Checkpoint(folder)
