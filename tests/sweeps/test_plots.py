"""The plots of a sweep: what is drawn is what the trials did, whatever they are called."""

import math
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from qdet.job import Sweep
from qdet.launching.runs.sweeps import plots
from qdet.launching.runs.sweeps.curves import Curve, read_curves
from qdet.launching.runs.sweeps.record import Entry, Trial
from qdet.search import Choice, LogUniform, Uniform, When

SPACE = {"optim.lr": LogUniform(1e-4, 1e-2), "detector.queries": Choice((20, 30, 60))}
SWEEP = Sweep(space=SPACE)


def _trial(
    number: int, *values: float, state: str = "finished", lr: float = 1e-3, queries: int = 30
) -> Trial:
    reports = tuple(
        Entry(order=10 * number + i, epoch=i + 1, step=5 * (i + 1), metrics={"val/AP": value})
        for i, value in enumerate(values)
    )
    settings = {"optim.lr": lr, "detector.queries": queries}
    return Trial(number=number, settings=settings, state=state, reports=reports)  # pyright: ignore[reportArgumentType]


TRIALS = {
    1: _trial(1, 0.1, 0.2, 0.3, lr=1e-4, queries=20),
    2: _trial(2, 0.05, state="stopped early", lr=1e-2, queries=60),
    3: _trial(3, 0.2, 0.4, 0.5),
    4: _trial(4, 0.9, state="failed"),
    5: _trial(5, state="cannot run here"),
}
CURVES = read_curves(TRIALS, sweep=SWEEP)


def test_curves_have_what_was_evaluated_of_trials_that_did_not_fail():
    assert [one.trial for one in CURVES] == ["t01", "t02", "t03"]
    assert CURVES[0].values == {1: 0.1, 2: 0.2, 3: 0.3}
    assert [one.last for one in CURVES] == [0.3, 0.05, 0.5]


def _lines(draw, mode: str = "max", curves=CURVES) -> list:
    figure = Figure()
    sign = -1 if mode == "max" else 1
    draw(figure, sorted(curves, key=lambda one: sign * one.last), Sweep(space=SPACE, mode=mode))  # pyright: ignore[reportArgumentType]
    return figure.axes[0].get_lines()


def test_every_evaluation_is_a_point_and_what_ended_early_has_a_mark():
    drawn = _lines(plots._draw_curves)
    found = {tuple(line.get_ydata()): tuple(line.get_xdata()) for line in drawn if line.get_marker() == "o"}
    for one in CURVES:
        assert found[tuple(one.values.values())] == tuple(one.values)
    marked = [
        tuple(line.get_xydata()[0]) for line in drawn if line.get_marker() == "X" and len(line.get_xdata())
    ]
    assert marked == [(1, 0.05)]


@pytest.mark.parametrize("mode", ["max", "min"])
def test_parallel_lines_pass_where_the_values_are_and_the_best_is_thickest(mode: str):
    lines = [line for line in _lines(plots._draw_parallel, mode) if len(line.get_xdata()) == 3]
    found = [tuple(np.round(line.get_ydata(), 6)) for line in lines]
    expected = {
        (0.0, round(1 / 6, 6), round(0.25 / 0.45, 6)),  # t01: lowest rate, first of three options
        (1.0, round(5 / 6, 6), 0.0),
        (0.5, 0.5, 1.0),  # 1e-3 is half way from 1e-4 to 1e-2
    }
    assert set(found) == expected
    thickest = max(lines, key=lambda line: line.get_linewidth())
    assert thickest.get_ydata()[-1] == (1.0 if mode == "max" else 0.0)
    assert thickest is lines[-1]  # above all others


HOSTILE = Choice(("$\\frac{$", "<b>", "\u4f60\u597d\x00", "x" * 300, math.inf, (8, 11), None))


@pytest.mark.filterwarnings("ignore:Glyph")
@pytest.mark.parametrize("mode", ["max", "min"])
@pytest.mark.parametrize("count", [1, 2, 30])
def test_plots_are_drawn_of_any_space(tmp_path: Path, mode, count: int):
    space = {
        "a.kind": HOSTILE,
        "a.rate": Uniform(0.1, 0.3),
        "b.rate": When("a.kind", ("<b>",), LogUniform(1e-5, 1e-4)),
        "c": Choice(tuple(range(100))),
    }
    curves = [
        Curve(
            trial=f"t{n:02d}",
            settings={"a.kind": HOSTILE.options[n % 7], "a.rate": 0.1 + n / 200, "c": n}
            | ({"b.rate": 2e-5} if n % 7 == 1 else {}),
            state="stopped early" if n % 2 else "finished",
            values={1: n / 40, 3: n / 50} if n % 2 else {1: n / 40},
        )
        for n in range(count)
    ]
    written = plots.draw_plots(curves, Sweep(space=space, mode=mode), tmp_path)
    assert [file.name for file in written] == list(plots.NAMES)
    for file in written:
        with Image.open(file) as picture:
            assert picture.width == 990
            assert len(picture.convert("L").getcolors() or ()) > 2


def test_without_an_evaluation_there_is_no_plot(tmp_path: Path):
    assert plots.draw_plots([], SWEEP, tmp_path) == []
    assert list(tmp_path.iterdir()) == []
