"""A problem with the store, or with the run to resume, is reported before any worker starts."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from qdet.config import override
from qdet.errors import ConfigError
from qdet.job import Job
from qdet.launching.preflight.check import check
from qdet.launching.preflight.resume import check_run
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
    refuse(job, r"--store\.path .*small has 0\.00 GiB left, and one checkpoint", store__path=str(mount))


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
