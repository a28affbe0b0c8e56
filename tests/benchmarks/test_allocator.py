"""`benchmarks.allocator`: both variants do the same work, and a line says what it took."""

import re

import pytest

from benchmarks import allocator
from benchmarks.steppers import Cost


class Recorded:
    """A process whose rounds took what was written down."""

    def __init__(self, cpu, found, mb):
        self.cpu, self.found, self.mb, self.closed = iter(cpu), found, mb, False

    def step(self):
        return Cost(next(self.cpu), 1.0, self.found)

    def peak_mb(self):
        return self.mb

    def close(self):
        self.closed = True


def started(monkeypatch, *recorded):
    """Have these processes started, in turn; return the variables that each got."""
    processes, given = iter(recorded), []

    def start(command, variables, root):
        given.append({k: v for k, v in variables.items() if k.startswith("MALLOC_")})
        return next(processes)

    monkeypatch.setattr(allocator, "Stepper", start)
    return given


def test_a_line_has_medians_without_the_first_two_rounds(monkeypatch, capsys):
    monkeypatch.setenv("MALLOC_ARENA_MAX", "7")
    kept, returned = Recorded([9, 9, 1.0, 3.0, 2.0], 0.5, 220), Recorded([9, 9, 2.0, 4.0, 1.0], 0.5, 200)
    given = started(monkeypatch, kept, returned)
    allocator.main(only=("prediction",), rounds=3)
    *_, line = capsys.readouterr().out.splitlines()
    assert line == "| prediction | 2.00 | 0.75 | 0.50 to 2.00 | 1.10 |"
    assert given == [allocator.ONE_KEPT_HEAP, {}]
    assert kept.closed
    assert returned.closed


def test_work_that_differs_has_no_line(monkeypatch, capsys):
    started(monkeypatch, Recorded([1, 1, 1], 0.5, 1), Recorded([1, 1, 1], 0.25, 1))
    with pytest.raises(RuntimeError, match=re.escape("0.5 where freed memory is kept, 0.25 elsewhere")):
        allocator.main(only=("step",), rounds=1)
    assert "| step" not in capsys.readouterr().out


@pytest.mark.slow
def test_a_demo_step_and_a_prediction_are_measured(capsys):
    allocator.main(only=("demo step", "prediction"), rounds=1)
    lines = capsys.readouterr().out.splitlines()[3:]
    assert [line.split(" | ")[0] for line in lines] == ["| demo step", "| prediction"]
