"""`benchmarks.engine`: every engine makes the same step, and a line says what it took."""

import re

import pytest

from benchmarks import engine
from benchmarks.steppers import Cost


def test_a_bare_loop_and_the_plain_engine_learn_the_same():
    steps = [engine.make_step(name, "demo") for name in ("bare", "plain")]
    for _ in range(3):
        bare, plain = [step() for step in steps]
        assert plain == pytest.approx(bare, rel=1e-5)


class Recorded:
    """Processes whose steps took what was written down."""

    def __init__(self, cpu, loss):
        self.cpu, self.loss, self.closed = iter(cpu), loss, False

    def step(self):
        cpu = next(self.cpu)
        return [Cost(cpu, 2 * cpu, self.loss), Cost(cpu + 2, cpu, self.loss + 1)]

    def close(self):
        self.closed = True


def test_a_line_has_medians_without_the_first_two_rounds(monkeypatch, capsys):
    recorded = {
        "zero1": Recorded([90, 90, 2.0, 4.0, 9.0], 5.0),
        "ddp": Recorded([1, 1, 1.0, 3.0, 3.0], 5.001),
    }
    monkeypatch.setattr(engine, "_start", lambda name, ranks, size: recorded[name])
    engine.main(only=("zero1",), rounds=3, size="demo")
    *_, line = capsys.readouterr().out.splitlines()
    # (2 + 1) / (1 + 1), (4 + 1) / (3 + 1), (9 + 1) / (3 + 1); walls 4 / 2, 8 / 6, 18 / 6
    assert line == "| zero1 | 2 | ddp | 5.00 | 1.50 | 1.25 to 2.50 | 2.00 |"
    assert all(one.closed for one in recorded.values())


def test_an_engine_that_computes_something_else_has_no_line(monkeypatch, capsys):
    recorded = {"zero1": Recorded([1, 1, 1], 5.0), "ddp": Recorded([1, 1, 1], 5.1)}
    monkeypatch.setattr(engine, "_start", lambda name, ranks, size: recorded[name])
    with pytest.raises(RuntimeError, match=re.escape("zero1 has a loss of 5.0, ddp one of 5.1")):
        engine.main(only=("zero1",), rounds=1, size="demo")
    assert "| zero1" not in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(900)
def test_every_engine_is_measured(capsys):
    engine.main(rounds=1, size="demo")
    lines = capsys.readouterr().out.splitlines()[3:]
    assert [line.split(" | ")[0] for line in lines] == [
        "| plain", "| ray", "| zero0", "| zero1", "| zero2", "| zero3",
    ]  # fmt: skip
