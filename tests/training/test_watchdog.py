"""The watchdog: silent while a worker makes progress, quick to name and end one that hangs."""

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from torch.multiprocessing import ProcessExitedException

from qdet.training.health import watchdog as watchdogs
from qdet.training.health.watchdog import EXIT_CODE, FIRST_BEAT, Watchdog
from tests.support.faulty_ranks import train_until_the_data_stops
from tests.support.ranks import on_ranks, tiny_job

REPO = Path(__file__).resolve().parents[2]


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def watched(clock):
    """A watchdog that no thread drives, and the list that it ends the worker by growing."""
    ended = []
    with Watchdog(rank=3, limit=0, end=lambda: ended.append(clock.now), clock=clock) as watchdog:
        watchdog.limit = 60
        yield watchdog, ended


def test_a_step_may_take_the_limit_beyond_the_slowest_recent_one(watched, clock, capfd):
    watchdog, ended = watched
    for took in (100, 2, 7, 3):  # the first is the start-up, and counts as a step
        clock.now += took
        watchdog.beat()
    watchdog.now("waiting for data")
    clock.now += 100 + 59
    watchdog.look()
    assert ended == []
    clock.now += 1
    watchdog.look()
    assert ended == [clock.now]
    said = capfd.readouterr().err
    assert "worker 3 on host" in said
    assert "no step for 160 s, the last 160 s of it in: waiting for data" in said
    assert "--train.hang-after" in said
    assert "test_a_step_may_take_the_limit" in said  # the stack of this thread


def test_slow_steps_of_long_ago_do_not_count(watched, clock):
    watchdog, _ = watched
    for took in (500, *[1] * watchdogs.RECENT):
        clock.now += took
        watchdog.beat()
    assert watchdog.allowed == 61


def test_the_first_step_may_take_longer(watched, clock):
    watchdog, ended = watched
    clock.now += FIRST_BEAT + 59
    watchdog.look()
    assert ended == []
    clock.now += 2
    watchdog.look()
    assert ended


def test_halfway_to_the_limit_it_reports_the_stacks_once(watched, clock, capfd):
    watchdog, ended = watched
    clock.now += 1
    watchdog.beat()
    watchdog.now("backward pass")
    for _ in range(45):
        clock.now += 1
        watchdog.look()
    said = capfd.readouterr().err
    assert ended == []
    assert said.count("in: backward pass. It ends in 30 s if nothing changes") == 1
    assert said.count("worker 3") == 1


def test_operations_with_their_own_timeout_are_not_watched(watched, clock):
    watchdog, ended = watched
    watchdog.beat()
    with watchdog.off("checkpoint"), watchdog.off("checkpoint of a part"):
        clock.now += 10_000
        watchdog.look()
    watchdog.look()
    assert ended == []


def test_it_does_not_disturb_a_debugger(watched, clock, monkeypatch):
    watchdog, ended = watched
    monkeypatch.setitem(sys.modules, "debugpy", object())
    clock.now += 10_000
    watchdog.look()
    assert ended == []


def test_a_breakpoint_counts_as_a_debugger():
    inside = {"__name__": "pdb", "debugging": watchdogs.debugging}
    exec("def prompt(): return debugging()", inside)
    assert inside["prompt"]()
    assert not watchdogs.debugging()


HANGS = {
    "asleep": "time.sleep(60)",
    # A regular expression that keeps the interpreter's lock: no Python thread runs meanwhile.
    "in C code": "re.match('(a+)+$', 'a' * 40 + 'b')",
}


@pytest.mark.parametrize("how", HANGS)
def test_a_hanging_worker_exits_with_its_stacks(how):
    code = f"""
        import re, time
        from qdet.training.health.watchdog import Watchdog

        def the_place_where_it_hangs():
            {HANGS[how]}

        with Watchdog(rank=1, limit=0.5) as watchdog:
            watchdog.beat()
            watchdog.now("forward pass")
            time.sleep(0.2)
            watchdog.beat()
            the_place_where_it_hangs()
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
        env=os.environ | {"PYTHONPATH": str(REPO)},
    )
    assert "the_place_where_it_hangs" in done.stderr
    if how == "asleep":
        assert done.returncode == EXIT_CODE
        assert "worker 1 on host" in done.stderr
        assert "in: forward pass" in done.stderr
    else:
        assert done.returncode == 1


def test_a_training_whose_data_stops_is_ended_by_the_watchdog(demo_shards, tmp_path, capfd):
    job = tiny_job(demo_shards, **{"train.workers": 2, "train.steps": 6, "train.hang_after": 2})
    with pytest.raises(ProcessExitedException) as left:
        on_ranks(2, train_until_the_data_stops, 3, {"run": job}, tmp_path)
    assert left.value.exit_code == EXIT_CODE
    said = capfd.readouterr().err
    assert re.search("worker 1 on host .*: no step for .* s of it in: waiting for data", said)
    assert "train_until_the_data_stops" in said


def test_a_limit_of_zero_turns_the_watchdog_off():
    code = """
        import threading
        from qdet.training.health.watchdog import Watchdog

        with Watchdog(rank=0, limit=0):
            print(threading.active_count())
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": str(REPO)},
    )
    assert done.stdout == "1\n"
