"""The spool on disk: delivered once and in order, within its bounds, whenever a process is killed."""

import json
import logging
import tempfile
import threading
import time
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from qdet.errors import TrackingError
from qdet.tracking import background, send_spool
from qdet.tracking.sender import Sender
from qdet.tracking.spool import Spool, SpoolFullError, points_file
from qdet.tracking.spool import spool as spool_module
from qdet.tracking.spool.thinning import FEW, thin


def point(step: int, *names: str) -> dict:
    return {"at": step, "kind": "metrics", "step": step, "values": dict.fromkeys(names or ("loss",), 1.0)}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bounds that tests reach."""
    monkeypatch.setattr(points_file, "CUT_OFF", 2_000)
    monkeypatch.setattr(points_file, "WAITING", 20_000)
    monkeypatch.setattr(spool_module, "FILES", 1_000)
    monkeypatch.setattr(spool_module, "REFUSED", 1_000)


class SpoolMachine(RuleBasedStateMachine):
    """Appends, deliveries and kills in any order, beside a list of all records."""

    @initialize(folder=st.uuids())
    def begin(self, folder) -> None:
        self.bound, points_file.CUT_OFF = points_file.CUT_OFF, 300
        self.temporary = tempfile.TemporaryDirectory()
        self.folder = Path(self.temporary.name) / str(folder)
        self.spool, self.all, self.delivered, self.handed = Spool(self.folder), [], 0, []

    @rule(count=st.integers(1, 9))
    def append(self, count: int) -> None:
        new = [point(len(self.all) + i) for i in range(count)]
        self.spool.append(new)
        self.all += new

    @rule(most=st.integers(1, 12))
    def take(self, most: int) -> None:
        self.handed = self.spool.unsent(most)
        assert [record for record, _ in self.handed] == self.all[self.delivered : self.delivered + most]

    @rule(count=st.integers(1, 12))
    def deliver(self, count: int) -> None:
        part, self.handed = self.handed[:count], self.handed[count:]
        if part:
            self.spool.advance(*part[-1])
            self.delivered += len(part)

    @rule(torn=st.booleans())
    def kill(self, torn: bool) -> None:
        self.spool.close()
        if torn:
            with (self.folder / "points.jsonl").open("ab") as file:
                file.write(b'{"at": 1, "kind": "met')
        self.spool, self.handed = Spool(self.folder), []

    @invariant()
    def nothing_is_lost_and_little_stays(self) -> None:
        if hasattr(self, "spool"):
            assert [one for one, _ in self.spool.unsent(10**6)] == self.all[self.delivered :]
            waiting = sum(len(json.dumps(one)) + 1 for one in self.all[self.delivered :])
            torn = 30 * 60
            assert (self.folder / "points.jsonl").stat().st_size <= 2 * waiting + 300 + torn

    def teardown(self) -> None:
        if hasattr(self, "spool"):
            points_file.CUT_OFF = self.bound
            self.spool.close()
            self.temporary.cleanup()


TestSpool = SpoolMachine.TestCase
TestSpool.settings = settings(max_examples=15, stateful_step_count=20, deadline=None)


def test_what_the_server_has_does_not_stay_on_disk(tmp_path, small):
    spool, largest = Spool(tmp_path), 0
    for step in range(400):
        spool.append([point(step)])
        ((record, end),) = spool.unsent()
        assert record == point(step)
        spool.advance(record, end)
        largest = max(largest, (tmp_path / "points.jsonl").stat().st_size)
    assert largest < 2_500
    assert (tmp_path / "sent").read_text() == str(
        sum(len(json.dumps(point(step))) + 1 for step in range(400))
    )
    spool.close()


def test_an_outage_without_end_thins_curves_and_says_so(tmp_path, small, caplog):
    """Evaluations, tags and what is being sent stay whole."""
    spool = Spool(tmp_path)
    with caplog.at_level(logging.WARNING):
        handed = []
        for step in range(3000):
            spool.append([point(step)])
            if step % 100 == 0:
                spool.append([point(step, "val/AP")])
            if step == 10:
                handed = spool.unsent(5)
        size = (tmp_path / "points.jsonl").stat().st_size
    assert size < 25_000 + 30 * 100
    kept = [record for record, _ in spool.unsent(10**6)]
    assert [one["step"] for one in kept if one.get("values") == {"val/AP": 1.0}] == list(range(0, 3000, 100))
    losses = [one["step"] for one in kept if one.get("values") == {"loss": 1.0}]
    assert losses == sorted(set(losses))
    assert losses[0] == 0
    assert losses[-1] == 2999
    dropped = 3000 - len(losses)
    assert dropped > 1500
    tags = [one["values"][points_file.THINNED_TAG] for one in kept if one["kind"] == "tags"]
    said = [int(line.partition(" of ")[0].rpartition(" ")[2]) for line in caplog.messages]
    assert sum(said) == dropped  # every point that is dropped is said to be
    assert tags
    assert all("were dropped while MLflow was away" in tag for tag in tags)
    assert [record for record, _ in handed] == kept[:5]
    spool.advance(*handed[-1])
    assert [record for record, _ in spool.unsent(10**6)] == kept[5:]
    spool.close()
    assert [record for record, _ in Spool(tmp_path).unsent(10**6)] == kept[5:]


@given(st.lists(st.tuples(st.sampled_from(["loss", "lr", "val/AP"]), st.booleans()), max_size=30 * FEW))
@settings(max_examples=20)
def test_thinning_keeps_ends_and_order_of_every_curve(drawn):
    records = [
        point(i, name) if metric else {"kind": "params", "i": i} for i, (name, metric) in enumerate(drawn)
    ]
    kept, dropped = thin(records)
    assert dropped == len(records) - len(kept)
    assert [one for one in records if one in kept] == kept
    assert [one for one in kept if one["kind"] == "params"] == [o for o in records if o["kind"] == "params"]
    for name in ("loss", "lr", "val/AP"):
        before = [one["step"] for one in records if name in one.get("values", {})]
        after = [one["step"] for one in kept if name in one.get("values", {})]
        assert after[:1] + after[-1:] == before[:1] + before[-1:]
        gaps = [before.index(b) - before.index(a) for a, b in pairwise(after)]
        assert max(gaps, default=1) <= 2


def test_only_the_last_of_tags_that_replace_each_other_stays():
    tags = [{"kind": "tags", "values": {"qdet.note": str(i)}} for i in range(5)]
    assert thin([*tags, {"kind": "end"}]) == ([tags[-1], {"kind": "end"}], 0)


def test_files_wait_up_to_a_bound_and_models_always(tmp_path, small):
    spool = Spool(tmp_path)
    first = spool.hold("a.png", bytes(600))
    with pytest.raises(SpoolFullError, match="that MLflow has not taken"):
        spool.hold("b.png", bytes(600))
    model = tmp_path / "model"
    model.mkdir()
    (model / "weights").write_bytes(bytes(2_000))
    held = spool.hold("model", model, always=True)
    spool.append([{"kind": "artifact", "file": first}, {"kind": "model", "file": held}])
    for record, end in spool.unsent():
        spool.advance(record, end)
    spool.hold("b.png", bytes(600))  # there is room again
    spool.close()
    with pytest.raises(SpoolFullError):  # a later process counts what is there
        Spool(tmp_path).hold("c.png", bytes(600))


def test_what_the_server_refuses_is_kept_up_to_a_bound(tmp_path, small):
    spool = Spool(tmp_path)
    kept = sum(spool.refuse(point(step), "because") for step in range(100))
    assert 0 < kept < 100
    assert (tmp_path / "refused.jsonl").stat().st_size <= 1_000
    spool.retry_refused()
    assert [record["step"] for record, _ in spool.unsent()] == list(range(kept))
    spool.close()


@pytest.mark.parametrize("damage", ["", "[]", "null", "{", '{"experiment": 1}', "[" * 100_000])
def test_a_damaged_record_of_a_run_is_named(tmp_path, damage):
    spool = Spool(tmp_path)
    spool.append([point(1)])
    spool.close()
    (tmp_path / "run.json").write_text(damage)
    with pytest.raises(TrackingError, match=r"run\.json is damaged"):
        send_spool(tmp_path, "sqlite:////nowhere/mlflow.db")


def test_lines_that_are_no_records_are_passed_over(tmp_path):
    spool = Spool(tmp_path)
    spool.append([point(1)])
    damaged = [b"[1]", b"{}", b"null", b'{"kind": 1}', b'{"kind": "metrics"}', b"[" * 5_000, b"\xff", b""]
    with (tmp_path / "points.jsonl").open("ab") as file:
        file.write(b"\n".join(damaged) + b"\n")
    spool.close()
    spool = Spool(tmp_path)
    spool.append([point(2)])
    assert [record["step"] for record, _ in spool.unsent()] == [1, 2]
    spool.advance(*spool.unsent()[-1])
    assert spool.unsent() == []
    spool.close()


class BrokenDisk(Spool):
    """A spool whose disk takes nothing until it is mended."""

    broken, tries = True, 0

    def append(self, records) -> None:
        self.tries += 1
        if self.broken:
            raise OSError("No space left")
        super().append(records)


class HangingDisk(Spool):
    """A spool whose disk hangs until it is released."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.released = threading.Event()

    def append(self, records) -> None:
        assert self.released.wait(60)
        super().append(records)


class Silent(Sender):
    """Sends nothing, with success."""

    def send(self) -> int:
        return 0


def test_a_disk_that_takes_nothing_does_not_fill_the_memory(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(background, "QUEUED", 500)
    disk = BrokenDisk(tmp_path)
    sender = Silent(disk, "sqlite://")
    with caplog.at_level(logging.WARNING):
        logging_ = background.Background(disk, sender)
        for step in range(2_000):
            while logging_._queue.qsize() > 400:
                time.sleep(0.01)
            logging_.put(lambda step=step: point(step))
        while disk.tries < 3:
            time.sleep(0.01)
        disk.broken = False
        assert logging_.close(30)
    steps = [record["step"] for record, _ in disk.unsent(10_000)]
    assert steps == sorted(set(steps))
    assert len(steps) < 2_000
    said = [int(line.split()[5].rstrip(",")) for line in caplog.messages if "every second" in line]
    assert sum(said) == 2_000 - len(steps)


def test_a_disk_that_hangs_does_not_fill_the_memory(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(background, "QUEUED", 50)
    disk = HangingDisk(tmp_path / "spool")
    with caplog.at_level(logging.WARNING):
        logging_ = background.Background(disk, Silent(disk, "sqlite://"))
        for step in range(500):
            logging_.put(lambda step=step: point(step))
        disk.released.set()
        assert logging_.close(30)
    dropped = 500 - len(disk.unsent())
    assert dropped > 300
    assert any("spool hangs" in line for line in caplog.messages)
    assert any(line.startswith(f"{dropped} records were dropped") for line in caplog.messages)
