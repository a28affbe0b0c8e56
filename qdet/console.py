"""Terminals to print on, and text that is printed as it is: in data, `[red]` and `:bee:` mean themselves."""

from io import StringIO

from rich.console import Console
from rich.text import Text


def open_console(
    *, stderr: bool = False, quiet: bool = False, width: int | None = None, file: StringIO | None = None
) -> Console:
    """Return a console that takes text as it is: no markup, no emoji codes, no colours for numbers."""
    return Console(
        stderr=stderr, quiet=quiet, width=width, file=file, markup=False, emoji=False, highlight=False
    )


def print_line(console: Console, line: str, *, style: str | None = None) -> None:
    """Print a line as it is on any console, however long it is, so that a path in it can be copied."""
    console.print(Text(line, style=style or ""), soft_wrap=True)
