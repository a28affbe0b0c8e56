"""TensorBoard and Weights & Biases, read back with their own readers."""

import json
import threading
from pathlib import Path

import numpy as np
import pytest

from qdet.errors import ConfigError
from qdet.storage import Folder
from qdet.tracking.loggers import SeveralTrackers, check_installed, choose, open_loggers
from qdet.tracking.tracker import NullTracker


class Recorder(NullTracker):
    """Keeps what it is given."""

    name = "recorder"

    def __init__(self) -> None:
        self.given = []

    def params(self, values):
        self.given.append(("params", dict(values)))

    def metrics(self, values, step):
        self.given.append(("metrics", dict(values), step))

    def close(self, status=None, *, wait=15):
        self.given.append(("close", status))
        return True


def log(tracker) -> None:
    tracker.params({"optim.lr": 1e-3, "data.train": "https://user:hunter2@host/x"})
    for step in (2, 4):
        tracker.metrics({"train/loss": 1.0 / step, "val/AP": np.float32(0.25)}, step)
    tracker.picture(np.full((4, 6, 3), 127, np.uint8), "predictions", 4)
    tracker.table({"class": ["a", "b"], "AP": [0.1, 0.2]}, "per_class.json")
    tracker.text("hello", "job/mine.py")


def open_one(name: str, tmp_path: Path, store: str | Path):
    (one,) = open_loggers(
        (name,), experiment="qdet", run="a.run", folder=Folder.open(store), scratch=tmp_path / "scratch"
    )
    return one


@pytest.mark.parametrize("store", ["{}/store", "memory://tensorboard-test"])
def test_tensorboard_reads_what_was_logged(store: str, tmp_path: Path):
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    folder = store.format(tmp_path)
    tracker = open_one("tensorboard", tmp_path, folder)
    log(tracker)
    assert tracker.close("FINISHED")
    files = Folder.open(folder).child("tensorboard")
    copied = tmp_path / "copied"
    copied.mkdir()
    for name in files.names():
        (copied / name).write_bytes(files.read(name))
    found = reader.EventAccumulator(str(copied))
    found.Reload()
    assert [(e.step, e.value) for e in found.Scalars("train/loss")] == [(2, 0.5), (4, 0.25)]
    assert [e.value for e in found.Scalars("val/AP")] == [0.25, 0.25]
    (picture,) = found.Images("predictions")
    assert (picture.width, picture.height, picture.step) == (6, 4, 4)
    (tag,) = (tag for tag in found.Tags()["tensors"] if tag.startswith("settings"))
    settings = found.Tensors(tag)[0].tensor_proto.string_val[0].decode()
    assert "| optim.lr | 0.001 |" in settings
    assert "hunter2" not in settings


def test_weights_and_biases_keeps_what_was_logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("wandb")
    for name, value in {"WANDB_MODE": "offline", "WANDB_SILENT": "true"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("HOME", str(tmp_path))
    tracker = open_one("wandb", tmp_path, tmp_path / "store")
    log(tracker)
    run = tracker._run
    assert (run.id, run.name, run.project) == ("a-run", "a.run", "qdet")
    assert run.config["optim.lr"] == "0.001"
    assert "hunter2" not in json.dumps(dict(run.config))
    assert tracker.close("FINISHED")
    (folder,) = (tmp_path / "scratch" / "wandb" / "wandb").glob("offline-run-*")
    assert list(folder.glob("*.wandb"))
    assert (folder / "files" / "job" / "mine.py").read_text() == "hello"
    assert len(list((folder / "files" / "media" / "images").glob("predictions*.png"))) == 1
    assert list((folder / "files" / "media" / "table").glob("per_class*"))
    summary = folder / "files" / "wandb-summary.json"
    if summary.is_file():
        assert json.loads(summary.read_text())["train/loss"] == 0.25


def test_several_trackers_are_given_the_same(tmp_path: Path):
    first, second = Recorder(), Recorder()
    several = SeveralTrackers(first, [second])
    several.params({"a": 1})
    for step in range(50):
        several.metrics({"loss": step}, step)
    assert several.close("FINISHED")
    assert first.given == second.given
    assert first.given[-1] == ("close", "FINISHED")


class Broken(Recorder):
    """Waits for a server, and fails."""

    def __init__(self) -> None:
        super().__init__()
        self.server = threading.Event()

    def metrics(self, values, step):
        self.server.wait()
        raise OSError("no server")


def test_a_logger_that_fails_changes_nothing_for_the_others(capsys: pytest.CaptureFixture):
    first, broken = Recorder(), Broken()
    several = SeveralTrackers(first, [broken])
    for step in range(20):
        several.metrics({"loss": 0}, step)  # does not wait
    broken.server.set()
    assert several.close("FINISHED")
    assert len(first.given) == 21
    shown = capsys.readouterr().out
    assert shown.count("--track.loggers recorder: metrics raised OSError: no server") == 1


def test_a_logger_that_is_not_installed_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(choose.LOGGERS, "wandb", ("wandb_is_not_here", "wandb"))
    with pytest.raises(ConfigError, match=r"--track.loggers wandb needs .*: pip install 'qdet\[wandb\]'"):
        check_installed(("tensorboard", "wandb"))
