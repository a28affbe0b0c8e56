"""The record of a run's first losses: exact, whole after any kill, left alone by a resumed run."""

import json
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qdet.checkpoint import RunFolder, open_folder
from qdet.errors import LeaseError, StorageError
from qdet.storage import Folder
from qdet.training.beginning.conditions import Conditions
from qdet.training.beginning.record import FILE, LARGEST, MOST, Beginning, first_difference, read_beginning
from qdet.training.beginning.recorder import WRITTEN, BeginningRecorder
from qdet.training.health.loss_spikes import MeanLoss
from tests.support.ranks import losses, tiny_job, train_all
from tests.support.simulated_ranks import on_simulated_ranks

CONDITIONS = Conditions(commit=None, versions={"torch": "2.13"}, device="cpu", processor="a, AVX2", threads=1)
EMPTY = Beginning(
    job={"name": "x"}, ranks=2, hosts=("a", "b"), conditions=CONDITIONS, plan_version=1,
    data={"train": "1", "val": "2"},
)  # fmt: skip
LOSSES = st.lists(st.floats(width=64), max_size=MOST)


@given(LOSSES)
def test_losses_come_back_to_the_last_bit(tmp_path_factory, values):
    folder = Folder.open(tmp_path_factory.mktemp("run"))
    folder.put(FILE, replace(EMPTY, losses=tuple(values)).to_bytes())
    found = read_beginning(folder)
    assert found is not None
    assert [loss.hex() for loss in found.losses] == [loss.hex() for loss in values]
    assert replace(found, losses=()) == EMPTY


@given(LOSSES, LOSSES, st.sampled_from([0.0, 1e-6, 0.5]))
def test_the_first_difference_is_that_of_a_literal_reading(one, other, within):
    def equal(a, b):
        if math.isnan(a) or math.isnan(b):
            return math.isnan(a) and math.isnan(b)
        same_bits = a == b and math.copysign(1, a) == math.copysign(1, b)
        return same_bits or (within > 0 and math.isfinite(a) and abs(a - b) <= within * abs(a))

    pairs = [*zip(one, other, strict=False)]
    different = [place for place, (a, b) in enumerate(pairs) if not equal(a, b)]
    infinite = any(math.isinf(a) for a, _ in pairs)
    if not (within and infinite):
        assert first_difference(one, other, within=within) == (different[0] if different else None)


@given(LOSSES.filter(len), st.data())
def test_one_changed_bit_of_a_loss_is_found(values, data):
    place = data.draw(st.integers(0, len(values) - 1))
    if not math.isfinite(values[place]):
        return
    changed = [*values]
    changed[place] = math.nextafter(values[place], math.inf)
    assert first_difference(values, changed) == place


@pytest.mark.parametrize(
    "content",
    [
        b"", b"[]", b'{"format": 2}', b"\xff", b'{"format": 1, "losses": 3}', b" " * (LARGEST + 1),
        json.dumps(json.loads(EMPTY.to_bytes()) | {"losses": ["0x1p0"] * (MOST + 1)}).encode(),
        json.dumps(json.loads(EMPTY.to_bytes()) | {"losses": ["0x1p99999"]}).encode(),
        json.dumps(json.loads(EMPTY.to_bytes()) | {"losses": [1.0]}).encode(),
        json.dumps(json.loads(EMPTY.to_bytes()) | {"ranks": 3}).encode(),
        json.dumps(json.loads(EMPTY.to_bytes()) | {"job": []}).encode(),
        json.dumps(json.loads(EMPTY.to_bytes()) | {"conditions": {}}).encode(),
    ],
)  # fmt: skip
def test_anything_else_is_no_record(tmp_path, content):
    folder = Folder.open(tmp_path)
    folder.put(FILE, content)
    with pytest.raises(StorageError, match=f"{FILE} is no record of first losses"):
        read_beginning(folder)


def test_a_run_without_a_record_has_none(tmp_path):
    assert read_beginning(Folder.open(tmp_path / "run")) is None


def test_most_losses_are_kept_whenever_the_training_is_killed(tmp_path):
    recorder = BeginningRecorder(RunFolder(open_folder(tmp_path)), EMPTY)
    for step in range(1, MOST + 20):
        recorder.add(step, step / 3)
        recorder.add(step, 0.0)  # what a checkpoint tells again
        recorder._task.wait(10.0)
        found = read_beginning(Folder.open(tmp_path))
        assert found is not None
        kept = max(count for count in WRITTEN if count <= step)
        assert found.losses == tuple(number / 3 for number in range(1, kept + 1))
    assert not recorder._task.error


def test_the_end_of_a_training_writes_the_rest(tmp_path):
    recorder = BeginningRecorder(RunFolder(open_folder(tmp_path)), EMPTY)
    for step in (1, 2, 3, 4, 6):  # 6 is none without 5
        recorder.add(step, float(step))
    recorder.close()
    found = read_beginning(Folder.open(tmp_path))
    assert found is not None
    assert found.losses == (1.0, 2.0, 3.0, 4.0)


def test_other_ranks_and_resumed_runs_record_nothing(tmp_path):
    recorder = BeginningRecorder(RunFolder(open_folder(tmp_path)), None)
    recorder.add(1, 1.0)
    recorder.close()
    assert not [*tmp_path.iterdir()]


def test_a_driver_that_lost_the_run_writes_no_record_and_a_full_disk_says_so(tmp_path, capsys, monkeypatch):
    class Lost:
        def check(self):
            raise LeaseError("taken over")

    run = RunFolder(open_folder(tmp_path))
    recorder = BeginningRecorder(run, EMPTY)
    run.fence = Lost()
    recorder.add(1, 1.0)
    recorder.close()
    assert not [*tmp_path.iterdir()]
    run.fence = None

    def put(*_):
        raise OSError("no space left")

    monkeypatch.setattr(Folder, "put", put)
    recorder.add(2, 1.0)
    recorder.close()
    assert "beginning.json could not be written (no space left)" in capsys.readouterr().out


def test_every_rank_hears_the_mean_loss_of_a_step_once_it_is_known():
    steps = [(1.0, 2.0), (math.nan, math.nan), (3.0, 5.0), (4.0, 8.0)]

    def watch(world):
        mean, heard = MeanLoss(world), {}
        mean.listener = lambda step, loss: heard.setdefault(step, loss)
        for number, values in enumerate(steps, 1):
            mean.reduced(world.sum(*mean.local()))
            mean.observe(number, [values[world.rank]])
        assert sorted(heard) == [1, 2, 3]
        mean.state()
        return heard

    for heard in on_simulated_ranks(2, watch):
        assert {step: loss for step, loss in heard.items() if step != 2} == {1: 1.5, 3: 4.0, 4: 6.0}
        assert math.isnan(heard[2])


def test_a_run_records_the_losses_that_it_logs_and_a_resumed_one_leaves_them(demo_shards, tmp_path):
    job = tiny_job(demo_shards, **{"train.steps": 2})
    logged = losses(train_all(1, {"run": job}, tmp_path)["run"])
    file = tmp_path / "run" / FILE
    before, found = file.read_bytes(), read_beginning(Folder.open(tmp_path / "run"))
    assert found is not None
    assert [*found.losses] == logged
    assert (found.ranks, len(found.hosts), found.job["train.steps"]) == (1, 1, 2)
    train_all(1, {"run": tiny_job(demo_shards, **{"train.steps": 3})}, tmp_path)
    assert file.read_bytes() == before
