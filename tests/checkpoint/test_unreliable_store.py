"""A store that answers with errors: what it does not give is no damage, and never removed for it."""

import hashlib
import io
import itertools
import json

import pytest

from qdet.checkpoint import Checkpoint, Manifest, Retention, RunFolder, open_folder, run_folder
from qdet.checkpoint import manifest as manifests
from qdet.checkpoint.manifest import read_manifest
from qdet.checkpoint.reading import newest
from qdet.errors import CheckpointError, NewerCheckpointError, UnreadableCheckpointError
from qdet.storage import network
from tests.support.small_checkpoints import write

KEPT = Retention(last=1, best=0)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(network, "PAUSES", (0.0,))
    monkeypatch.setattr(run_folder, "PAUSES", (0.0, 0.0))
    monkeypatch.setattr(manifests, "REREAD", 0.0)


class Faults:
    """Errors of reads of files whose path holds `part`: as many as `left`."""

    def __init__(self, part: str, left: int, error: type[Exception] = ConnectionError) -> None:
        self.part, self.left, self.error = part, left, error

    def wrap(self, function):
        def call(path, *args, **kwargs):
            if self.left > 0 and self.part in str(path):
                self.left -= 1
                raise self.error("the store is away")
            return function(path, *args, **kwargs)

        return call


_NAMES = itertools.count()


@pytest.fixture
def remote():
    """A run of steps 1 to 4 behind a URL, and its file system."""
    folder = open_folder(f"memory://unreliable-{next(_NAMES)}/run")
    run = RunFolder(folder)
    for step in (1, 2, 3, 4):
        write(run.at(step), step=step)
    return run, folder.files.filesystem


def inject(monkeypatch, filesystem, faults: Faults) -> None:
    for name in ("open", "cat_file", "info"):
        monkeypatch.setattr(filesystem, name, faults.wrap(getattr(filesystem, name)))


@pytest.mark.parametrize("part", ["step_000004/manifest", "step_000004/rank_00001", "step_000004/state"])
def test_errors_that_pass_are_waited_for(remote, monkeypatch, part):
    run, filesystem = remote
    inject(monkeypatch, filesystem, Faults(part, left=3))
    said = []
    assert run.newest_good(said.append).name == "step_000004"
    assert all("looking again" in line for line in said)


@pytest.mark.parametrize("part", ["step_000004/manifest", "step_000004/rank_00001"])
def test_errors_that_stay_stop_the_resume_and_remove_nothing(remote, monkeypatch, part):
    run, filesystem = remote
    with monkeypatch.context() as patch:
        inject(patch, filesystem, Faults(part, left=10**6))
        with pytest.raises(UnreadableCheckpointError, match="the store is away"):
            run.newest_good(lambda why: None)
    write(run.at(5), step=5)
    run.tidy(Retention(last=3))
    assert run.steps() == [2, 3, 4, 5]


@pytest.mark.parametrize("step", [1, 2, 3])
def test_tidying_stops_at_what_the_store_does_not_give(remote, monkeypatch, step):
    run, filesystem = remote
    with monkeypatch.context() as patch:
        inject(patch, filesystem, Faults(f"step_00000{step}/manifest", left=10**6))
        with pytest.raises(UnreadableCheckpointError):
            run.tidy(KEPT)
    assert run.steps() == [1, 2, 3, 4]
    run.tidy(KEPT)
    assert run.steps() == [3, 4]


def test_a_file_that_is_cut_off_on_its_way_once_is_read_again(remote, monkeypatch):
    run, filesystem = remote
    rightly, cut = filesystem.open, []

    def open_cut(path, *args, **kwargs):
        file = rightly(path, *args, **kwargs)
        if "step_000004/rank_00001" in path and not cut:
            cut.append(path)
            return io.BytesIO(file.read(100))
        return file

    monkeypatch.setattr(filesystem, "open", open_cut)
    assert run.newest_good(print).name == "step_000004"
    assert len(cut) == 1


def test_a_folder_that_may_not_be_read_is_not_damage(tmp_path, monkeypatch):
    run = RunFolder(open_folder(tmp_path))
    for step in (1, 2):
        write(run.at(step), step=step)
    faults = Faults("step_000002/rank", left=10**6, error=PermissionError)
    monkeypatch.setattr("pathlib.Path.open", faults.wrap(__import__("pathlib").Path.open))
    with pytest.raises(UnreadableCheckpointError, match="cannot be read"):
        run.newest_good(lambda why: None)


def test_the_name_of_a_folder_and_its_step_agree(tmp_path):
    run = RunFolder(open_folder(tmp_path))
    for step in (1, 2):
        write(run.at(step), step=step)
    run.at(2).local.rename(run.at(9).local)
    with pytest.raises(CheckpointError, match=r"step_000009 holds the checkpoint of step 2.*step_000002"):
        Checkpoint(run.at(9))
    said = []
    assert run.newest_good(said.append).name == "step_000001"
    assert "copied or renamed" in said[0]
    write(run.at(10), step=10)
    RunFolder(run.folder).tidy(KEPT)
    assert run.steps() == [1, 9, 10]  # it may be the only copy
    run.at(9).local.rename(tmp_path / "best")
    assert Checkpoint(open_folder(tmp_path / "best")).state.step == 2


def rewrite(folder, change) -> None:
    """Change a manifest as a later version would have written it: with its digest."""
    content = json.loads(folder.read("manifest.json"))
    del content["digest"]
    change(content)
    text = json.dumps(content, indent=1, sort_keys=True).encode()
    content["digest"] = hashlib.sha256(text).hexdigest()
    folder.put("manifest.json", json.dumps(content, indent=1, sort_keys=True).encode())


LATER = {
    "a field": lambda content: content.update(shards=3),
    "a field of a file": lambda content: next(iter(content["files"].values())).update(crc=1),
    "a format": lambda content: content.update(format=3),
}


@pytest.mark.parametrize("change", LATER.values(), ids=LATER)
def test_a_later_versions_checkpoint_is_neither_damaged_nor_passed_over_nor_removed(tmp_path, change):
    run = RunFolder(open_folder(tmp_path))
    for step in (1, 2):
        write(run.at(step), step=step)
    rewrite(run.at(2), lambda content: None)
    read_manifest(run.at(2))
    rewrite(run.at(2), change)
    for look in (lambda: run.newest_good(print), lambda: newest(run), lambda: Checkpoint(run.at(2))):
        with pytest.raises(NewerCheckpointError, match=r"step_000002 was written by a later version of qdet"):
            look()
    write(run.at(9), step=9)
    run.tidy(Retention(last=1, best=0))
    assert run.steps() == [1, 2, 9]


def test_a_later_versions_state_is_named(tmp_path):
    import dataclasses

    from qdet.checkpoint.rank_file import fingerprint

    folder = open_folder(tmp_path / "step_000002")
    write(folder, step=2)
    found = read_manifest(folder)
    name = found.file("state")
    text = json.dumps(json.loads(folder.read(name)) | {"moon": 1}).encode()
    folder.put(name, text)
    changed: Manifest = dataclasses.replace(found, files={**found.files, name: fingerprint(text)})
    folder.put("manifest.json", changed.render())
    with pytest.raises(NewerCheckpointError, match="later version of qdet: its state has 'moon'"):
        Checkpoint(folder)


def test_a_damaged_manifest_with_another_field_is_damaged(tmp_path):
    folder = open_folder(tmp_path / "step_000002")
    write(folder, step=2)
    folder.put("manifest.json", folder.read("manifest.json").replace(b'"zero"', b'"zera"'))
    with pytest.raises(CheckpointError, match="is damaged") as caught:
        read_manifest(folder)
    assert not isinstance(caught.value, NewerCheckpointError)
