"""Code beside a training: in order, never waited for, bounded in time, errors and output."""

import sys
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qdet.tracking import aside
from qdet.tracking.aside import Aside, limit_output


@pytest.fixture
def said() -> list[str]:
    return []


@given(st.lists(st.booleans(), max_size=200))
@settings(max_examples=20, deadline=None)
def test_all_calls_are_made_in_order_whatever_some_raise(raises: list[bool]):
    made, said = [], []
    beside = Aside("it", say=said.append)

    def call(i: int) -> None:
        made.append(i)
        if raises[i]:
            raise ValueError(f"number {i}")

    for i in range(len(raises)):
        beside.call("on", lambda i=i: call(i))
    assert beside.close()
    assert made == list(range(len(raises)))
    assert beside.failures == sum(raises)
    assert len(said) == any(raises)  # once, however often


def test_an_error_is_said_with_the_line_that_raised_it(said: list[str]):
    beside = Aside("callback Mine", say=said.append)
    beside.call("on_step", lambda: 1 / 0)
    assert beside.close()
    assert len(said) == 1
    assert said[0].startswith("callback Mine: on_step raised ZeroDivisionError: division by zero (")
    assert "test_aside.py:" in said[0]


def test_an_exit_in_a_call_ends_nothing(said: list[str]):
    beside, made = Aside("it", say=said.append), []
    beside.call("on", lambda: sys.exit(3))
    beside.call("on", lambda: made.append(1))
    assert beside.close()
    assert made == [1]


def test_a_call_that_hangs_is_left_behind(said: list[str]):
    beside, release = Aside("it", say=said.append), threading.Event()
    beside.call("on_step", release.wait)
    beside.call("on_end", lambda: None)
    started = time.monotonic()
    assert not beside.close(0.2)
    assert time.monotonic() - started < 5
    assert said == ["it: on_step did not return within 0.2 s: it and 1 more calls are dropped"]
    release.set()


def test_only_droppable_calls_are_dropped_while_it_is_behind(said: list[str], monkeypatch):
    monkeypatch.setattr(aside, "LONGEST_QUEUE", 4)
    beside, release, made = Aside("it", say=said.append), threading.Event(), []
    beside.call("wait", release.wait)
    while beside._current is None:
        time.sleep(0.001)
    for i in range(10):
        beside.call("on_step", lambda i=i: made.append(i), droppable=True)
    beside.call("on_end", lambda: made.append("end"))
    release.set()
    assert beside.close()
    assert made == [0, 1, 2, 3, "end"]
    assert said == ["it: 6 calls were dropped, since it was slower than the training"]


def test_output_of_the_thread_is_bounded_and_that_of_others_is_not(capsys: pytest.CaptureFixture):
    beside = Aside("it")
    beside.call("on", lambda: [print("x" * 999) for _ in range(2000)])  # 2 MB
    assert beside.close()
    print("y" * 200_000)
    shown = capsys.readouterr().out
    assert shown.count("x") <= aside.OUTPUT
    assert shown.count("prints too much") == 1
    assert shown.count("y") == 200_000


def test_output_may_go_on_after_a_while(capsys: pytest.CaptureFixture, monkeypatch):
    monkeypatch.setattr(aside, "PER", 0.0)
    with limit_output("it"):
        for _ in range(3):
            print("x" * 50_000)
            time.sleep(0.01)
    assert capsys.readouterr().out.count("x") == 150_000
