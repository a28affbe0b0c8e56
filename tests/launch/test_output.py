"""A training continues, and ends, whatever the reader of its output does."""

import io
import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qdet.launching.display import output
from qdet.launching.display.output import DetachedOutput, detached_output

REPO = Path(__file__).resolve().parents[2]


def pipe():
    """Descriptor to read from, and a stream that writes to it."""
    reading, writing = os.pipe()
    return reading, io.TextIOWrapper(os.fdopen(writing, "wb"), encoding="utf-8", write_through=True)


@given(st.lists(st.text(max_size=30), max_size=20))
def test_all_that_is_read_arrives_in_order(texts):
    reading, stream = pipe()
    detached = DetachedOutput(stream)
    for text in texts:
        assert detached.write(text) == len(text)
    detached.leave()
    stream.close()
    with os.fdopen(reading, "rb") as file:
        expected = "".join(texts).encode("utf-8", "backslashreplace")
        assert file.read() == expected


def test_a_reader_that_stops_reading_keeps_nobody_waiting(monkeypatch):
    monkeypatch.setattr(output, "WAITING", 1000)
    reading, stream = pipe()
    detached = DetachedOutput(stream)
    for number in range(20_000):  # some 300 kB, of which a pipe takes 64
        print(f"line {number:09d}", file=detached, flush=True)
    with os.fdopen(reading, "rb", buffering=0) as file:
        first = file.read(10_000)
        assert first.startswith(b"line 000000000\nline 000000001\n")
        drain = threading.Thread(target=lambda: list(iter(lambda: file.read(2**16), b"")))
        drain.start()
        detached.leave()
        stream.close()
        drain.join()


def test_what_was_not_read_is_counted(monkeypatch):
    monkeypatch.setattr(output, "WAITING", 100)
    reading, stream = pipe()
    detached = DetachedOutput(stream)
    detached.write("x" * 101)
    detached.write("after\n")
    detached.leave()
    stream.close()
    assert os.read(reading, 1000) == b"[101 bytes of output were not read in time]\nafter\n"
    os.close(reading)


def test_a_closed_pipe_is_no_error():
    reading, stream = pipe()
    os.close(reading)
    detached = DetachedOutput(stream)
    print("nobody reads this", file=detached, flush=True)
    detached.leave()
    assert detached.gone
    print("nor this", file=detached, flush=True)
    stream.close()


def test_streams_are_put_back(capfd):
    before = sys.stdout, sys.stderr
    with detached_output():
        print("inside")
    print("outside")
    assert (sys.stdout, sys.stderr) == before
    assert capfd.readouterr().out == "inside\noutside\n"


TRAINING = """
import sys
from qdet.launching.display import output
output.LEAVING = 0.5
with output.detached_output():
    for step in range(20_000):
        print(f"step {step}", flush=True)
        print(f"warning {step}", file=sys.stderr)
    open(sys.argv[1], "w").write("trained")
print("the end")
"""


@pytest.mark.parametrize("closed", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_process_ends_although_nobody_reads_it(closed, tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", TRAINING, tmp_path / "done"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=REPO,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stderr is not None
    if closed:
        process.stdout.close()
        process.stderr.close()
    assert process.wait(60) == 0
    assert (tmp_path / "done").read_text() == "trained"


HANGING = """
import os, sys
os.set_blocking(2, False)
try:
    while True:
        os.write(2, bytes(2**12))
except BlockingIOError:
    os.set_blocking(2, True)
from qdet.training.health import watchdog
watchdog.FIRST_BEAT, watchdog.WRITING = 0.0, 0.5
with watchdog.Watchdog(rank=0, limit=1):
    {hang}
"""
HANGS = {
    "in Python": ("import time; time.sleep(60)", 75),
    # A regular expression keeps the interpreter's lock; SIGALRM ends the process.
    "in C": ("import re, time; time.sleep(0.5); re.match('(a+)+$', 'a' * 60 + 'b')", -14),
}


@pytest.mark.skipif(sys.platform != "linux", reason="fills a pipe as Linux does")
@pytest.mark.parametrize("hang", HANGS)
def test_a_hanging_worker_ends_although_nobody_reads_stderr(hang):
    code, expected = HANGS[hang]
    script = textwrap.dedent(HANGING).format(hang=code)
    with subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, cwd=REPO) as process:
        try:
            assert process.wait(120) == expected
        finally:
            process.kill()


def test_a_hanging_worker_ends_although_stderr_is_closed():
    script = "import os; os.close(2)\n" + HANGING.split("BlockingIOError:\n    os.set_blocking(2, True)\n")[1]
    script = script.format(hang=HANGS["in Python"][0])
    assert subprocess.run([sys.executable, "-c", script], cwd=REPO, timeout=60, check=False).returncode == 75
