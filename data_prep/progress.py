"""Progress bar with bytes, speed and time left, shown on terminals only."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)


@contextmanager
def show_progress(
    what: str, total: float, console: Console, *, done: float = 0
) -> Iterator[Callable[[float], None]]:
    """Show a bar of `total` bytes, `done` of them finished; yield a function that advances it by bytes."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as shown:
        bar = shown.add_task(what, total=total, completed=done)  # type: ignore[arg-type] - a float
        yield lambda more: shown.advance(bar, more)
