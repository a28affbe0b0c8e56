"""What a run prints at its end: tables, one line for programs, the cause of a failure."""

import json
import math
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from qdet.errors import DataError, TrainingError
from qdet.job import Sweep
from qdet.launching.commands.demo_run import last_line
from qdet.launching.ray_backend.failures import find_cause
from qdet.launching.runs import report
from qdet.launching.runs.sweeps.table import Swept, TrialRow, best_first, table
from qdet.launching.runs.typed import as_flags, train_command
from qdet.search import LogUniform


def test_ap_table_names_every_number():
    given = {"val/AP": 0.4321, "val/AP50": 0.65, "val/APl": math.nan, "val/AR100": 0.5, "train/loss": 3.0}
    lines = [line.split() for line in report.ap_table(given).splitlines()]
    assert lines == [
        ["AP", "AP50", "AP75", "APs", "APm", "APl"],
        ["0.4321", "0.6500", "-", "-", "-", "-"],
        ["AR1", "AR10", "AR100", "ARs", "ARm", "ARl"],
        ["-", "-", "0.5000", "-", "-", "-"],
    ]
    assert len({len(line) for line in report.ap_table(given).splitlines()}) == 1


def test_the_outcome_is_written_to_the_result_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    file = tmp_path / "result.json"
    monkeypatch.setenv(report.RESULT, str(file))
    outcome = report.Outcome(
        run="a-1",
        folder="outputs/a-1",
        step=3,
        metrics={"val/AP": 0.5},
        mlflow_run_id="f00",
        tracking_uri="sqlite:////m.db",
        picture=str(tmp_path / "outputs" / "a-1" / "predictions.png"),
        best=str(tmp_path / "outputs" / "a-1" / "step_000002"),
        best_ap=0.51234,
    )
    monkeypatch.setenv("QDET_ROOT", str(tmp_path))
    report.print_summary(outcome)
    said = capsys.readouterr().out
    assert re.search(r"^predictions +outputs/a-1/predictions.png$", said, re.MULTILINE)
    assert re.search(r"^best checkpoint +outputs/a-1/step_000002 \(AP 0.5123\)$", said, re.MULTILINE)
    commands = said.split("next:\n")[1].splitlines()
    assert [command.split("qdet ")[1].split()[:2] for command in commands[:2]] == [
        ["predict", "a-1"],
        ["evaluate", "a-1"],
    ]
    assert commands[-1].endswith("qdet ui --tracking-uri sqlite:////m.db")
    assert report.ui_command(f"sqlite:///{tmp_path}/mlflow.db") == "qdet ui"
    assert str(tmp_path) not in said
    written = json.loads(file.read_text())
    assert (written["mlflow_run_id"], written["metrics"]) == ("f00", {"val/AP": 0.5})
    assert last_line(written, minutes=9.04) == "AP=0.5123 minutes=9.0 run=f00"  # of the best checkpoint


ROWS = [
    TrialRow(trial="t1", settings={"optim.lr": 1e-5}, metric=0.1, step=4, state="stopped early"),
    TrialRow(
        trial="t2", settings={"optim.lr": 2e-5}, metric=None, step=None, state="failed", error="DataError: x"
    ),
    TrialRow(trial="t3", settings={"optim.lr": 3e-5}, metric=0.3, step=8, state="finished"),
]


def test_best_trial_comes_first_and_failed_ones_last():
    assert [row.trial for row in best_first(ROWS)] == ["t3", "t1", "t2"]


def test_sweep_table_shows_metric_setting_and_state():
    lines = table(ROWS, Sweep(space={"optim.lr": LogUniform(1e-5, 1e-4)})).splitlines()
    assert lines[1].split() == ["trial", "val/AP", "step", "state", "optim.lr"]
    assert lines[2].split() == ["t3", "0.3000", "8", "finished", "3e-05"]
    assert lines[4].split() == ["t2", "-", "-", "failed", "2e-05"]
    assert lines[5] == "t2 failed: DataError: x"


def test_a_sweep_in_json_has_the_best_trial_first_and_unrounded():
    said = json.loads(json.dumps(Swept("s", "val/AP", ROWS, "f00").as_json()))
    assert said["best"] == said["trials"][0]
    assert (said["best"]["trial"], said["best"]["settings"], said["best"]["metric"]) == (
        "t3",
        {"optim.lr": 3e-5},
        0.3,
    )
    assert said["trials"][-1]["error"] == "DataError: x"
    assert Swept("s", "val/AP", ROWS[1:2], None).as_json()["best"] is None


def test_the_best_trial_is_trained_by_the_same_command_without_the_sweep():
    arguments = [
        "jobs/a.py",
        "--demo",
        "--sweep",
        "--sweep.trials",
        "3",
        "--sweep.concurrent=2",
        "--sweep.scheduler",
        "none",
        "--sweep.space.optim.lr.high",
        "2",
        "--store.run",
        "night",
        "--train.steps",
        "9",
        "--json",
    ]
    said = train_command({"optim.lr": 0.00043218765, "detector.queries": 30}, arguments)
    expected = "python jobs/a.py --demo --train.steps 9 --optim.lr 0.0004322 --detector.queries 30"
    assert said == expected


def test_printed_settings_parse_as_flags():
    flags = as_flags({"optim.lr": 2e-5, "detector.backbone.drop_path": 0.1, "name": "a b"})
    assert flags == "--optim.lr 2e-05 --detector.backbone.drop-path 0.1 --name 'a b'"


class _Group(Exception):
    """Like Ray's WorkerGroupError, which holds what every worker raised."""

    def __init__(self, failures: dict[int, Exception]) -> None:
        super().__init__("Training failed due to worker errors:\nlong\ntext")
        self.worker_failures = failures


class _Wrapped(Exception):
    """Like Ray's wrapper of a worker's exception, with the traceback as text."""

    def __init__(self, inner: Exception) -> None:
        super().__init__("Traceback (most recent call last): ...")
        self._base_exc = inner


def test_the_cause_is_the_users_error_however_deep_it_is_wrapped():
    reset = RuntimeError("Connection reset by peer")
    torn = DataError("train-000001.tar is torn")
    cause = find_cause(_Group({0: _Wrapped(reset), 1: _Wrapped(torn)}))
    assert cause is torn


def test_cause_of_other_failures_is_one_line_with_its_worker():
    cause = find_cause(_Group({1: _Wrapped(ValueError("first\nsecond"))}))
    assert isinstance(cause, TrainingError)
    assert str(cause) == "training failed in worker 1: ValueError: first"


def test_a_dead_worker_is_the_cause_rather_than_the_errors_of_others():
    missed, died = _Wrapped(RuntimeError("Connection closed by peer")), RuntimeError("it is gone")
    died.health_check_failure = RuntimeError("The actor died unexpectedly")
    cause = find_cause(_Group({0: missed, 1: died}))
    assert str(cause) == "training failed in worker 1: RuntimeError: The actor died unexpectedly"


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Handle Ctrl-C as in a terminal; a process that a shell starts in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_waiting_ends_at_a_signal_and_returns_the_calls_result():
    import os
    import threading
    import time

    from qdet.launching.ray_backend.interruptible import call_interruptibly

    assert call_interruptibly(lambda: 7) == 7
    with pytest.raises(DataError, match="torn"):
        call_interruptibly(lambda: (_ for _ in ()).throw(DataError("torn")))
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        call_interruptibly(lambda: time.sleep(30))
    assert time.monotonic() - started < 5
