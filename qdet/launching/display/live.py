"""A bar that follows a training in a terminal, with warnings and evaluations as lines above it."""

import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from qdet.console import open_console
from qdet.training.reporting import Display, Evaluating, Evaluation, PlainLines, Progress, clock, gigabytes

REFRESHES = 4.0
"""Redraws per second."""


class LiveDisplay:
    """Draws a training's bar at the bottom of a terminal. Call its methods from any thread.

    Args:
        console: The terminal.
        title: What is trained, such as the name of the run.
    """

    def __init__(self, console: Console, title: str) -> None:
        self._console, self._title, self._began = console, title, time.monotonic()
        self._progress: Progress | None = None
        self._evaluating: Evaluating | None = None
        self._evaluation: Evaluation | None = None
        self._spinner = Spinner("dots")
        self.live = Live(
            self, console=console, refresh_per_second=REFRESHES, transient=True, vertical_overflow="visible"
        )

    def progress(self, progress: Progress) -> None:
        """Move the bar."""
        self._progress, self._evaluating = progress, None

    def evaluating(self, evaluating: Evaluating) -> None:
        """Put a bar of the evaluation in place of the training's."""
        self._evaluating = evaluating

    def evaluated(self, evaluation: Evaluation) -> None:
        """Print a line above the bar, and keep AP beside it."""
        self._evaluation, self._evaluating = evaluation, None
        self.line(evaluation.line(), style="bold green")

    def line(self, text: str, *, style: str = "") -> None:
        """Print a line above the bar."""
        self._console.print(Text(text, style=style), soft_wrap=True)

    def finish(self) -> None:
        """Leave the last progress behind as a line."""
        if self._progress is not None:
            self.line(self._progress.line())

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the bar and the lines of numbers below it."""
        elapsed = time.monotonic() - self._began
        if self._progress is None:
            waiting = Table.grid(padding=(0, 1))
            waiting.add_row(self._spinner, Text(f"{self._title}: starting, {clock(elapsed)}"))
            yield waiting
            return
        yield _bar(self._progress) if self._evaluating is None else _bar_of(self._evaluating, self._progress)
        yield _numbers(_losses(self._progress))
        yield _numbers(_rates(self._progress, self._evaluation, elapsed))


@contextmanager
def open_display(title: str, *, console: Console | None = None) -> Iterator[Display]:
    """Yield a bar where stdout is a terminal, and plain lines everywhere else."""
    console = console or open_console()
    if not console.is_terminal or console.is_dumb_terminal:
        yield PlainLines()
        return
    sys.stdout.flush()
    display = LiveDisplay(console, title)
    with display.live:
        try:
            yield display
        finally:
            display.finish()


def _bar(progress: Progress) -> Table:
    """Return the step, its bar, the share that is done, and the time that remains."""
    step, steps = progress.step, progress.steps
    rest = f"ETA {clock(progress.eta_seconds)}"
    return _row("step", f"{step}/{steps}", step, steps, rest)


def _bar_of(evaluating: Evaluating, progress: Progress) -> Table:
    """Return the same of an evaluation, which has no time of its own."""
    where = f"{evaluating.step}/{progress.steps}"
    return _row("evaluating after step", where, evaluating.done, evaluating.batches, "")


def _row(name: str, where: str, done: int, total: int, rest: str) -> Table:
    """Return a name and a place, a bar as wide as there is room, the share that is done, and the rest."""
    grid = Table.grid(expand=True, padding=(0, 1))
    for _ in range(2):
        grid.add_column(no_wrap=True)
    grid.add_column(ratio=1)
    for _ in range(2):
        grid.add_column(no_wrap=True, justify="right")
    grid.add_row(
        Text(name, style="bold"),
        Text(where, style="bold"),
        ProgressBar(total=total, completed=done),
        f"{done / max(total, 1):.0%}",
        rest,
    )
    return grid


def _losses(progress: Progress) -> dict[str, str]:
    return {name: f"{value:.3f}" for name, value in ({"loss": progress.loss} | dict(progress.losses)).items()}


def _rates(progress: Progress, evaluation: Evaluation | None, elapsed: float) -> dict[str, str]:
    shown = {
        "epoch": f"{progress.epoch:.2f}",
        "images/s": f"{progress.images_per_second:.1f}",
        "data wait": f"{progress.data_wait:.0%}",
        "memory": gigabytes(progress.memory),
        "elapsed": clock(elapsed),
    }
    if evaluation is not None and math.isfinite(evaluation.ap):
        shown["AP"] = f"{evaluation.ap:.3f}"
    return shown


def _numbers(named: dict[str, str]) -> Text:
    """Return names and values in one line, which is cut at the terminal's edge."""
    line = Text(no_wrap=True, overflow="ellipsis")
    for name, value in named.items():
        line.append(f"{name} ", style="dim").append(f"{value}  ")
    return line
