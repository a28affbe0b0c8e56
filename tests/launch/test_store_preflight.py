"""A problem with the store, or with the run to resume, is reported before any worker starts."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qdet.checkpoint import Retention
from qdet.checkpoint.manifest import Manifest
from qdet.config import override
from qdet.errors import ConfigError
from qdet.job import Job
from qdet.launching.preflight.check import check
from qdet.launching.preflight.resume import check_run
from qdet.launching.preflight.store import checkpoint_bytes
from qdet.launching.runs import record
from qdet.launching.runs.prepared import prepare
from tests.support.ranks import tiny_job, train_all


@pytest.fixture(scope="module")
def stored(demo_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the run `night` of two steps."""
    store = tmp_path_factory.mktemp("store")
    train_all(1, {"night": tiny_job(demo_shards, **{"train.steps": 2, "train.checkpoint_every": 1})}, store)
    record.write(str(store), record.RunRecord(name="night", mlflow_run_id=None, tracking_uri=""))
    return store


@pytest.fixture
def store(stored: Path, tmp_path: Path) -> Path:
    """A copy of it to damage."""
    return Path(shutil.copytree(stored, tmp_path / "store"))


@pytest.fixture
def job(demo_shards: Path, store: Path) -> Job:
    return tiny_job(demo_shards, **{"store.path": str(store), "train.steps": 4})


def refuse(job: Job, said: str, **changes: object) -> None:
    changed = override(job, {name.replace("__", "."): value for name, value in changes.items()})
    with pytest.raises(ConfigError, match=said):
        check(prepare(changed))


def test_a_valid_store_passes_and_nothing_is_left_behind(job: Job, store: Path):
    before = sorted(store.rglob("*"))
    check(prepare(job))
    check(prepare(override(job, {"store.resume": "night"})))
    check(prepare(override(job, {"store.resume": "night", "train.zero": 3, "optim.lr": 1e-4})))
    assert sorted(store.rglob("*")) == before


def test_a_changed_job_is_refused_with_what_may_change(job: Job):
    said = r"--train\.batch-size is 16, it was 8.*What may change"
    refuse(job, said, store__resume="night", train__batch_size=16)
    refuse(job, r"--train\.seed is 7, it was 0", store__resume="auto", store__run="night", train__seed=7)


def test_fewer_steps_than_there_are_are_refused(job: Job):
    refuse(job, r"--train\.steps 1: night has trained 2 steps already", store__resume="night", train__steps=1)
    check(prepare(override(job, {"store.resume": "night", "train.steps": 2})))
    short = override(job, {"store.resume": "night", "train.steps": None, "train.epochs": 1})
    with pytest.raises(ConfigError, match=r"--train\.epochs 1, which is 1 steps: night has trained 2"):
        check_run(short, digest=None, steps=1)


def test_other_images_are_refused(job: Job, demo_shards: Path):
    changes = {"data.train": str(demo_shards / "val"), "store.resume": "night"}
    with pytest.raises(ConfigError, match=r"the digest of --data\.train is"):
        check(prepare(override(job, changes)))


def test_a_damaged_checkpoint_does_not_stop_preflight(job: Job, store: Path):
    """Workers resume from the checkpoint before and say why; the job is compared with that one's."""
    newest = store / "night" / "step_000002"
    next(newest.glob("job.*.json")).write_text("{}")
    check(prepare(override(job, {"store.resume": "night"})))
    refuse(job, r"night.step_000001: --train\.seed", store__resume="night", train__seed=7)


def test_the_folder_of_another_run_is_refused(job: Job, store: Path):
    (store / "night").rename(store / "day")
    refuse(job, r"holds the run night.*--store\.resume night", store__resume="day")


def test_checkpoints_without_a_run_record_are_not_resumed(job: Job, store: Path):
    (store / "night" / record.RECORD).unlink()
    refuse(job, r"--store\.run night: .* holds checkpoints and no run\.json", store__run="night")


def test_a_damaged_run_record_is_named(job: Job, store: Path):
    (store / "night" / record.RECORD).write_text(json.dumps({"name": "night"})[:-3])
    refuse(job, r"night/run\.json cannot be read", store__resume="night")


def test_a_file_in_place_of_a_folder_is_named(job: Job, store: Path, tmp_path: Path):
    (tmp_path / "file").touch()
    refuse(job, r"--store\.path .*file cannot be written to", store__path=str(tmp_path / "file"))
    (store / "taken").touch()
    refuse(job, r"--store\.run taken: .*is a file; remove it", store__run="taken")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_the_right_to_write_is_named(job: Job, store: Path):
    store.chmod(0o555)
    try:
        refuse(job, r"--store\.path .* cannot be written to \(PermissionError")
    finally:
        store.chmod(0o755)


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB in memory."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount")
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no right to mount a file system in memory")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_store_without_room_for_a_checkpoint_is_named(job: Job, mount: Path):
    said = r"--store\.path .*small has 0\.00 GiB left, and a run of this job has up to 1 checkpoint "
    refuse(job, said, store__path=str(mount))


def leave_room(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(
        shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(2**40, 2**40 - size, size)
    )


def test_room_for_as_many_checkpoints_as_are_kept_is_needed(job: Job, monkeypatch):
    """One less than there may be at a time is too little, while one alone would fit several times."""
    job = override(job, {"train.steps": 60, "train.checkpoint_every": 10, "train.keep_checkpoints": 2})
    job = override(job, {"train.eval_every": 0, "train.keep_best": 0})
    each = checkpoint_bytes(job, len(prepare(job).train.categories))
    leave_room(monkeypatch, 4 * each)  # the last, two before it, and the one being written
    check(prepare(job))
    leave_room(monkeypatch, 4 * each - 1)
    refuse(job, r"up to 4 checkpoints at a time.* change --train\.keep-checkpoints")
    check(prepare(override(job, {"train.keep_checkpoints": 1})))
    refuse(job, "up to 14 checkpoints", train__keep_every=1)  # those of ten epochs besides


def test_what_a_resumed_run_has_is_room(job: Job, store: Path, monkeypatch):
    resumed = override(job, {"store.resume": "night", "train.checkpoint_every": 1, "train.keep_best": 0})
    each = checkpoint_bytes(job, len(prepare(job).train.categories))
    has = sum(file.stat().st_size for file in (store / "night").glob("step_*/*"))
    leave_room(monkeypatch, 4 * each - has)
    check(prepare(resumed))
    leave_room(monkeypatch, 4 * each - has - 1)
    refuse(resumed, "up to 4 checkpoints")


@given(
    st.integers(1, 40), st.integers(1, 9), st.integers(0, 3), st.integers(0, 3), st.integers(0, 7), st.data()
)
def test_no_training_has_more_checkpoints_than_are_counted(steps, often, last, best, every, data):
    """Play one with any results, and count what is there while each checkpoint is written."""
    kept = Retention(last=last, best=best, every_steps=every)
    saved = sorted({step for step in range(1, steps + 1) if step % often == 0 or step == steps})
    ap = data.draw(st.lists(st.floats(0, 1), min_size=len(saved), max_size=len(saved)))
    there, most = {}, 0
    for step, value in zip(saved, ap, strict=True):
        there[step] = Manifest(step=step, attempt="a", metrics={"val/AP": value}, files={})
        most = max(most, len(there))
        there = {one: there[one] for one in kept.keeps(there)}
    assert most <= kept.most(saved) <= len(saved)
    assert most <= kept.most(None) or every


def test_a_full_store_is_named(job: Job, mount: Path):
    with pytest.raises(OSError, match="No space"):
        (mount / "everything").write_bytes(bytes(2**20))
    refuse(job, r"--store\.path .*small", store__path=str(mount))


def test_a_read_only_store_is_named(job: Job, mount: Path):
    subprocess.run(["mount", "-o", "remount,ro", str(mount)], check=True)
    refuse(job, r"--store\.path .*small cannot be written to \(OSError.*Read-only", store__path=str(mount))


@pytest.mark.parametrize(("workers", "batch", "tried"), [(3, 16, "15 or 18"), ("5:7", 16, "14 or 21")])
def test_a_batch_that_no_allowed_number_of_workers_shares_is_refused(
    job: Job, workers, batch: int, tried: str
):
    said = re.escape(f"--train.batch-size {batch} must split evenly over --train.workers {workers}")
    with pytest.raises(ConfigError, match=f"{said}.*{tried}"):
        override(job, {"train.workers": workers, "train.batch_size": batch})
