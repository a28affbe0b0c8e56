"""The trials of a sweep as a live table in a terminal; lines elsewhere, as they are printed anyway."""

import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.table import Table
from rich.text import Text

from qdet.console import open_console
from qdet.training.reporting import clock

REFRESHES = 2.0
"""Redraws per second."""
AROUND = 5
"""Lines of a terminal that the rows of the table leave free."""
WIDEST_SETTING = 24
"""Characters of a setting that are shown."""
_STEP = re.compile(r"trial (t\d+): (step \d+/\d+ .*)")
_STYLES = {"running": "bold", "finished": "green", "failed": "red", "cannot run here": "red"}


@dataclass(frozen=True, kw_only=True)
class TrialLine:
    """One trial as a row."""

    trial: str
    state: str
    epoch: int
    """Whole epochs behind it."""
    metric: float | None
    settings: Sequence[str]
    """One for each column."""


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How a sweep stands."""

    name: str
    metric: str
    columns: Sequence[str]
    """Names of the settings."""
    trials: int
    """Of the whole sweep."""
    rows: Sequence[TrialLine]
    """Of the trials that have begun, best first."""


class TrialsTable:
    """Draws how a sweep stands at the bottom of a terminal.

    Args:
        console: The terminal.
        look: Returns how the sweep stands; called at every redraw, on a thread.
        now: Tells the time, in seconds.
    """

    def __init__(
        self, console: Console, look: Callable[[], Standing], *, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._look, self._now, self._began = look, now, now()
        self._steps: dict[str, str] = {}
        """Last progress by trial."""
        self.live = Live(self, console=console, refresh_per_second=REFRESHES, transient=True)

    def take(self, line: str) -> bool:
        """Keep a worker's line of progress for the table; return whether it is one."""
        found = _STEP.fullmatch(line)
        if found is not None:
            self._steps[found[1]] = found[2]
        return found is not None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the table, and a line that counts what it leaves out."""
        standing = self._look()
        ranked = sorted(standing.rows, key=lambda row: row.state != "running")  # stable: then the best
        shown = ranked[: max(1, console.height - AROUND)]
        yield self._draw(standing, shown)
        rest = f", {len(ranked) - len(shown)} more rows" if len(ranked) > len(shown) else ""
        elapsed = clock(self._now() - self._began)
        yield Text(f"{standing.name}: {_count(standing)}{rest}, {elapsed}", style="dim", no_wrap=True)

    def _draw(self, standing: Standing, shown: Sequence[TrialLine]) -> Table:
        table = Table(box=None, padding=(0, 1), header_style="bold")
        for name in ("trial", "state", "epoch", standing.metric):
            table.add_column(Text(name), no_wrap=True)
        for name in standing.columns:
            table.add_column(Text(name), no_wrap=True, overflow="ellipsis", max_width=WIDEST_SETTING)
        table.add_column(Text("now"))  # the only one that gives way in a narrow terminal
        for row in shown:
            now = self._steps.get(row.trial, "") if row.state == "running" else ""
            metric = "-" if row.metric is None else f"{row.metric:.4f}"
            cells = map(Text, (row.trial, row.state, str(row.epoch), metric, *row.settings))
            last = Text(now, no_wrap=True, overflow="ellipsis")
            table.add_row(*cells, last, style=_STYLES.get(row.state, ""))
        return table


@contextmanager
def open_trials(
    look: Callable[[], Standing], *, console: Console | None = None
) -> Iterator[Callable[[str], bool]]:
    """Draw a table inside the block where stdout is a terminal; yield what takes the lines that it shows."""
    console = console or open_console()
    if not console.is_terminal or console.is_dumb_terminal:
        yield lambda line: False
        return
    sys.stdout.flush()
    table = TrialsTable(console, look)
    with table.live:
        yield table.take


def _count(standing: Standing) -> str:
    """Return how many trials are in which state, those that are left last."""
    counts: dict[str, int] = {}
    for row in standing.rows:
        counts[row.state] = counts.get(row.state, 0) + 1
    left = standing.trials - len(standing.rows)
    return ", ".join(f"{count} {state}" for state, count in _with_left(counts, left).items())


def _with_left(counts: Mapping[str, int], left: int) -> dict[str, int]:
    return {**counts, **({"to come": left} if left > 0 or not counts else {})}
