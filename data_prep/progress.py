"""How far a long command is: a bar with bytes, speed and time left, on a terminal only."""

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
def progress(
    what: str, total: float, console: Console, *, done: float = 0
) -> Iterator[Callable[[float], None]]:
    """Show a bar of `total` bytes, `done` of them already; the function given takes how many more are."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as shown:
        bar = shown.add_task(what, total=total, completed=done)  # type: ignore[arg-type] - whole or not
        yield lambda more: shown.advance(bar, more)
