"""Changed files with digests that fit again: read as they say, or refused in words; never taken for what they
are not.

What is accepted is compared with a literal reading of the changed JSON, and tensors and samples with those
that were written.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError

from qdet.checkpoint import Checkpoint, Retention, RunFolder, open_folder, verify
from qdet.checkpoint.reading import peek
from qdet.checkpoint.run_folder import best_of
from qdet.config import flatten
from qdet.data.loading.sample import load_image
from qdet.data.shards.index import COLUMNS, Index
from qdet.data.shards.manifest import digest_of
from qdet.data.shards.shard_set import ShardSet
from qdet.errors import LeaseError, QdetError, StorageError
from qdet.inference.description import Description
from qdet.job import Job, Sweep
from qdet.launching.runs import record
from qdet.launching.runs.record import RunRecord
from qdet.launching.runs.sweeps.course import Course
from qdet.launching.runs.sweeps.record import SweepFile, SweepStore
from qdet.search import Choice, Uniform
from qdet.storage import Folder
from qdet.storage.lease import Owner, Terms, Waiting, acquire
from qdet.training.checkpointing.compatibility import check_unchanged
from qdet.training.corruption.record import FILE, Incident, add_incident, bad_hosts, read_incidents
from tests.support.mutations import mutations
from tests.support.small_checkpoints import write

QUICK, ALL = 25, 500
"""Changes of each kind of file, by default and in the slow tests."""


def as_read(value: Any) -> Any:
    """Return a value as JSON has it."""
    return json.loads(json.dumps(value))


def same(believed: Any, said: Any) -> bool:
    """Whether two JSON values mean the same: a number is also one in quotes, and no other thing is."""
    if isinstance(believed, dict) and isinstance(said, dict):
        return believed.keys() == said.keys() and all(same(believed[k], said[k]) for k in believed)
    if isinstance(believed, list) and isinstance(said, list):
        return len(believed) == len(said) and all(map(same, believed, said))
    if isinstance(believed, bool) or isinstance(said, bool) or believed is None or said is None:
        return believed is said
    if isinstance(believed, int | float) and isinstance(said, int | float):
        return believed == said or (math.isnan(believed) and math.isnan(said))
    if isinstance(believed, int | float) and isinstance(said, str):
        with suppress(ValueError):
            return float(said) == believed
    return type(believed) is type(said) and believed == said


def assert_means(believed: Any, said: Any) -> None:
    """Assert that a record says what its file does, and has defaults where that says nothing."""
    assert isinstance(said, dict)
    for field in fields(believed):
        inside = getattr(believed, field.name)
        if isinstance(inside, tuple) and inside and dataclasses.is_dataclass(inside[0]):
            assert len(inside) == len(said[field.name])
            for one, then in zip(inside, said[field.name], strict=True):
                assert_means(one, then)
            continue
        value = as_read(dataclasses.asdict(believed)[field.name])
        if field.name in said:
            assert same(value, said[field.name]), field.name
        else:
            default = field.default if field.default_factory is MISSING else field.default_factory()
            assert field.default is not MISSING or field.default_factory is not MISSING, field.name
            assert same(value, as_read(default)), field.name


@dataclass
class Kind:
    """A file, how it is changed, and how it is read."""

    original: Any
    put: Callable[[Any], None]
    """Writes what a change has made of it, with all digests."""
    look: Callable[[Any], None]
    """Reads it as qdet does, and asserts that what is accepted is right; raises errors of qdet else."""
    reset: Callable[[], None] = lambda: None


def printed(content: bytes) -> dict[str, Any]:
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def of_checkpoint(tmp_path: Path, role: str) -> Kind:
    folder = tmp_path / "run" / "step_000300"
    written = write(open_folder(folder))
    job = Job(name="x").demo()
    file = next(folder.glob(f"{role}*.json"))
    if role == "job":
        file.write_text(json.dumps(flatten(job), default=str))
    manifest = folder / "manifest.json"
    before = {path: path.read_bytes() for path in folder.iterdir()}
    original = json.loads(file.read_text())
    state = json.loads(next(folder.glob("state*.json")).read_text())

    def put_manifest(content: Any) -> None:
        if isinstance(content, dict):
            content = {name: value for name, value in content.items() if name != "digest"}
            text = json.dumps(content, indent=1, sort_keys=True).encode()
            content |= {"digest": hashlib.sha256(text).hexdigest()}
        manifest.write_text(json.dumps(content, indent=1, sort_keys=True))

    def put(content: Any) -> None:
        if role == "manifest":
            put_manifest(content)
            return
        file.write_text(json.dumps(content))
        listed = json.loads(before[manifest])
        listed["files"][file.name] = printed(file.read_bytes())
        put_manifest(listed)

    def look(said: Any) -> None:
        run = RunFolder(open_folder(tmp_path / "run"))
        best_of(found := run.manifests())
        Retention().keeps(found)
        verify(run.at(300))
        saved = Checkpoint(run.at(300))
        assert saved.state.step == saved.manifest.step == 300
        for name, values in written.items():
            if name in saved.shapes:
                assert torch.equal(saved.whole(name).flatten(), values.flatten())
        assert saved.shapes.keys() == {n for n in written if n in saved.shapes}
        if role == "manifest":
            assert_means(saved.manifest, said)
        assert_means(saved.state, said if role == "state" else state)
        if role == "job":
            assert saved.job == said or same(saved.job, said)
        if role == "tensors":
            assert {name: list(shape) for name, shape in saved.shapes.items()} == said
        described = Description.of_checkpoint(saved, saved.manifest, averaged=True)
        assert list(described.classes.names) == [str(name) for name in saved.state.categories["names"]]
        assert described.detector
        assert described.augment
        with suppress(QdetError):  # of another run than the job's, whatever was changed
            check_unchanged(peek(run.at(300)), job, None)

    def reset() -> None:
        for path, content in before.items():
            path.write_bytes(content)

    return Kind(original, put, look, reset)


def of_run(tmp_path: Path) -> Kind:
    record.write(str(tmp_path), RunRecord(name="night", mlflow_run_id="1", tracking_uri="sqlite://", job="a"))
    file = tmp_path / "night" / "run.json"

    def look(said: Any) -> None:
        assert_means(record.read(str(tmp_path), "night"), said)

    return Kind(json.loads(file.read_text()), lambda value: file.write_text(json.dumps(value)) and None, look)


def of_sweep(tmp_path: Path, name: str) -> Kind:
    sweep = Sweep(space={"optim.lr": Uniform(0.1, 0.9), "optim.ema_decay": Choice((0.5, 0.9))}, trials=3)
    store = SweepStore.at(str(tmp_path), "search")
    wanted = SweepFile.of("search", Job(name="x").demo(), sweep, digest="d")
    store.write(wanted)
    course = Course(sweep, wanted, store, {})
    for number in (1, 2):
        course.start(number)
        course.report(number, epoch=1, step=9, metrics={"val/AP": 0.1 * number}, last=False)
    file = tmp_path / "search" / name

    def look(said: Any) -> None:
        found = SweepStore.at(str(tmp_path), "search").find(wanted)
        assert found is not None
        if name == "sweep.json":
            assert_means(found[0], said)
            return
        trial = found[1][2]
        assert_means(trial, said if isinstance(said, dict) else {})
        again = Course(sweep, *(found[0], store, found[1]))
        for path, value in again.settings(2).items():
            assert same(as_read(value), said["settings"][path])

    return Kind(json.loads(file.read_text()), lambda value: file.write_text(json.dumps(value)) and None, look)


class Clock:
    """A clock on which nobody may wait longer than a day."""

    def __init__(self) -> None:
        self.now = 1000.0

    def sleep(self, seconds: float) -> None:
        self.now += max(seconds, 0.01)
        assert self.now < 1000 + 25 * 3600, "it waits for ever"


def of_lease(tmp_path: Path, kind: str) -> Kind:
    """The lease of a process on another machine, which is gone: whatever its files say, it ends."""
    folder = Folder.open(tmp_path / "run")
    terms = Terms(folder)
    elsewhere = dataclasses.replace(Owner.here(), host="elsewhere", machine="other")
    assert terms.claim(1, elsewhere, 40.0)
    terms.renew(1, 3, 950.0)
    file = tmp_path / "run" / "lease" / f"term_000001.{kind}"
    original = json.loads(file.read_text())

    def put(value: Any) -> None:
        file.write_text(json.dumps(value))

    def look(said: Any) -> None:
        owner, seconds = terms.holder(1)
        if kind == "json" and isinstance(said, dict):
            if owner is not None:
                assert_means(owner, said["owner"])
            if seconds is not None:
                assert same(seconds, said["seconds"])
                assert 0 < seconds <= 24 * 3600
        clock, lines = Clock(), []
        waiting = Waiting(say=lines.append, clock=lambda: clock.now, now=lambda: clock.now, sleep=clock.sleep)
        fence = acquire(terms, Owner.here(), waiting=waiting)
        assert fence.number == 2
        for left in (tmp_path / "run" / "lease").glob("term_000002*"):
            left.unlink()

    return Kind(original, put, look)


def of_corruption(tmp_path: Path) -> Kind:
    folder = Folder.open(tmp_path)
    for step in (3, 9):
        add_incident(folder, Incident(step=step, what="x", ranks=(0, 1), hosts=("a", "b"), decided=step == 9))
    file = tmp_path / FILE

    def look(said: Any) -> None:
        found = read_incidents(folder)
        assert said["format"] == 1
        assert len(found) == len(said["incidents"])
        for one, then in zip(found, said["incidents"], strict=True):
            assert_means(one, then)
        decided = [one for one in said["incidents"] if one["decided"]]
        assert bad_hosts(found) == {host for one in decided for host in one["hosts"]}

    return Kind(json.loads(file.read_text()), lambda value: file.write_text(json.dumps(value)) and None, look)


def samples(dataset: ShardSet) -> dict[int, tuple]:
    """Read all of a dataset by image id."""
    found = {}
    for row in range(len(dataset)):
        annotation = dataset.read_annotation(row)
        size = int(dataset.index.height[row]), int(dataset.index.width[row])
        key = int(dataset.index.image_id[row])
        assert load_image(dataset, row).shape == (*size, 3)
        found[key] = dataset.read_image(row), annotation, size, int(dataset.index.boxes[row])
    assert len(found) == len(dataset)
    return found


def copy_dataset(demo_shards: Path, tmp_path: Path) -> tuple[Path, dict]:
    folder = tmp_path / "val"
    folder.mkdir()
    for file in (demo_shards / "val").iterdir():
        if file.is_file():
            (folder / file.name).write_bytes(file.read_bytes())
    return folder, samples(ShardSet.open(folder))


def of_dataset(demo_shards: Path, tmp_path: Path) -> Kind:
    folder, truth = copy_dataset(demo_shards, tmp_path)
    file = folder / "manifest.json"

    def put(value: Any) -> None:
        with suppress(KeyError, TypeError, TypeCheckError):  # the last is the tests' own check
            value = value | {"digest": digest_of(value["categories"], value["shardlist"])}
        file.write_text(json.dumps(value))

    def look(said: Any) -> None:
        dataset = ShardSet.open(folder)
        assert samples(dataset) == truth
        assert [
            {"id": i, "name": n}
            for i, n in zip(dataset.categories.ids, dataset.categories.names, strict=True)
        ] == (
            sorted(
                ({"id": int(c["id"]), "name": str(c["name"])} for c in said["categories"]),
                key=lambda c: c["id"],
            )
        )
        counts = said.get("counts")
        if dataset.objects is not None:
            assert dataset.objects == max(0, counts["boxes"] - counts.get("crowds", 0))

    return Kind(json.loads(file.read_text()), put, look)


def of_index(demo_shards: Path, tmp_path: Path) -> Kind:
    """An index of which one number of a column is changed."""
    folder, truth = copy_dataset(demo_shards, tmp_path)
    index = ShardSet.open(folder).index
    columns = {name: getattr(index, name).copy() for name in COLUMNS}
    original = {name: values.tolist() for name, values in columns.items()}
    manifest = json.loads((folder / "manifest.json").read_text())

    def put(value: Any) -> None:
        try:
            made = {name: np.array(value[name], dtype=columns[name].dtype) for name in COLUMNS}
            content = Index(**made).to_bytes()
        except (KeyError, TypeError, ValueError, OverflowError, TypeCheckError):
            content = json.dumps(value).encode()
        (folder / "index.npz").write_bytes(content)
        changed = manifest | {"index_sha256": hashlib.sha256(content).hexdigest()}
        (folder / "manifest.json").write_text(json.dumps(changed))

    def look(said: Any) -> None:
        assert samples(ShardSet.open(folder)) == truth

    return Kind(original, put, look)


KINDS: dict[str, Callable[[Path, Path], Kind]] = {
    "manifest of a checkpoint": lambda here, shards: of_checkpoint(here, "manifest"),
    "state of a checkpoint": lambda here, shards: of_checkpoint(here, "state"),
    "job of a checkpoint": lambda here, shards: of_checkpoint(here, "job"),
    "tensors of a checkpoint": lambda here, shards: of_checkpoint(here, "tensors"),
    "run.json": lambda here, shards: of_run(here),
    "sweep.json": lambda here, shards: of_sweep(here, "sweep.json"),
    "trial of a sweep": lambda here, shards: of_sweep(here, "trials/0002.json"),
    "claim of a lease": lambda here, shards: of_lease(here, "json"),
    "renewal of a lease": lambda here, shards: of_lease(here, "beat"),
    "corruption.json": lambda here, shards: of_corruption(here),
    "manifest of a dataset": lambda here, shards: of_dataset(shards, here),
    "index of a dataset": lambda here, shards: of_index(shards, here),
}


def read_changed(name: str, count: int, tmp_path: Path, demo_shards: Path) -> None:
    kind = KINDS[name](tmp_path, demo_shards)
    kind.put(kind.original)
    kind.look(kind.original)  # what was not changed is accepted
    refused = 0
    for changed in mutations(kind.original, count, seed=name):
        kind.put(changed)
        said = None
        try:
            kind.look(as_read(changed))
        except (QdetError, LeaseError, StorageError) as error:
            refused += 1
            said = str(error)
        except BaseException as error:
            error.add_note(f"{name}: {json.dumps(changed)[:2000]}")
            raise
        finally:
            kind.reset()
        assert said is None or (said and "\n" not in said)
    if "lease" not in name:  # which has to end whatever it says
        assert refused > count / 10


@pytest.mark.parametrize("name", KINDS)
def test_a_few_changes_are_read_as_they_say_or_refused(name, tmp_path, demo_shards):
    read_changed(name, QUICK, tmp_path, demo_shards)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", KINDS)
def test_500_changes_are_read_as_they_say_or_refused(name, tmp_path, demo_shards):
    read_changed(name, ALL, tmp_path, demo_shards)
