"""Ctrl-C and SIGTERM: a flag for the training, an exit code, and the command that resumes."""

import os
import signal
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from qdet.job_files import JOBS
from qdet.launching.graceful_stop import STOPPING, catch_signals
from qdet.launching.ray_backend import submit
from qdet.launching.runs.typed import describe_stop, resume_command

RUN = "tiny-calm-owl"


@pytest.mark.parametrize(
    ("arguments", "environment", "command"),
    [
        (["jobs/a.py", "--demo"], {}, "python jobs/a.py --demo"),
        (["jobs/a.py", "--store.resume", "old", "--demo"], {}, "python jobs/a.py --demo"),
        (["jobs/a.py", "--store.resume=old", "--store.run", "n"], {}, "python jobs/a.py"),
        (["jobs/a.py", "--data.train", "with space"], {}, "python jobs/a.py --data.train 'with space'"),
        (
            ["jobs/a.py", "--x", "1"],
            {"QDET_COMMAND": "qdet submit jobs/a.py --"},
            "qdet submit jobs/a.py -- --x 1",
        ),
        (
            ["a.py", "--x", "1"],
            {"TORCHELASTIC_RUN_ID": "none", "LOCAL_WORLD_SIZE": "2"},
            "torchrun --nproc-per-node 2 a.py --x 1",
        ),
        ([str(JOBS / "detr_r50.py"), "--demo"], {}, "qdet run qdet:detr_r50 -- --demo"),
        (["/opt/bin/qdet", "train", "a"], {}, "qdet train a"),
        (["/opt/lib/qdet/__main__.py", "train", "a"], {}, "python -m qdet train a"),
    ],
)
def test_the_resuming_command_is_the_one_that_started(
    arguments: list[str],
    environment: dict[str, str],
    command: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.chdir(tmp_path)
    assert resume_command(RUN, arguments, environment) == f"{command} --store.resume {RUN}"


def test_a_secret_on_the_command_line_is_not_repeated():
    said = resume_command(RUN, ["jobs/a.py", "--store.path", "s3://key:very-secret@bucket/x"], {})
    assert "very-secret" not in said


def test_the_message_says_where_it_stopped(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sys.argv", ["jobs/a.py", "--demo"])
    monkeypatch.delenv("QDET_COMMAND", raising=False)
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    expected = f"stopped after step 16 of 2000; resume with: python jobs/a.py --demo --store.resume {RUN}"
    assert describe_stop(RUN, 16, 2000) == expected


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_sets_the_flag_and_the_second_leaves(number: int, capfd: pytest.CaptureFixture):
    before, threads = signal.getsignal(number), threading.active_count()
    with catch_signals() as stop:
        assert not stop()
        os.kill(os.getpid(), number)
        assert stop()
        assert stop.exit_code == 128 + number
        with pytest.raises(SystemExit) as left:
            signal.raise_signal(number)
        assert left.value.code == 128 + number
    assert signal.getsignal(number) == before
    deadline = time.monotonic() + 5
    while threading.active_count() > threads and time.monotonic() < deadline:
        time.sleep(0.01)  # the line is printed by a thread
    assert (STOPPING in capfd.readouterr().out) is (number == signal.SIGINT)


def test_a_run_that_is_left_at_once_says_how_to_resume(capsys: pytest.CaptureFixture):
    def train():
        with catch_signals(announce=False, abandoned="resume with: this"):
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(SystemExit):
        train()
    assert capsys.readouterr().out == "resume with: this\n"
    with catch_signals(announce=False, abandoned="resume with: this"):
        signal.raise_signal(signal.SIGINT)
    assert capsys.readouterr().out == ""


class FakeClient:
    """A cluster whose job prints ten lines; its log is read from the start, in chunks of any size."""

    def __init__(self, interrupt_at: int, chunk: int) -> None:
        self.text = "".join(f"line {number}\n" for number in range(10))
        self.interrupt_at, self.chunk, self.stopped = interrupt_at, chunk, False

    async def tail_job_logs(self, job: str) -> AsyncIterator[str]:
        for start in range(0, len(self.text), self.chunk):
            if not self.stopped and start >= self.interrupt_at:
                raise KeyboardInterrupt
            yield self.text[start : start + self.chunk]
        if not self.stopped:
            raise KeyboardInterrupt

    def stop_job(self, job: str) -> None:
        self.stopped = True
        self.text += "stopped after step 3 of 9; resume with: ...\n"


@pytest.mark.parametrize("interrupt_at", [0, 7, 30, 1000])
def test_after_ctrl_c_the_log_goes_on_where_it_was_left(interrupt_at: int, monkeypatch: pytest.MonkeyPatch):
    client, shown = FakeClient(interrupt_at, chunk=11), []
    log = submit._Log(client, "job", shown.append)
    with pytest.raises(KeyboardInterrupt):
        log.follow()
    client.stop_job("job")
    client.chunk = 4  # other chunks than the first time
    log.follow()
    assert "".join(shown) == client.text
