"""Run a function as a command: flags from a settings class, expected errors in one line, as `qdet` does."""

import sys
from collections.abc import Callable
from typing import Any, TypeVar

import tyro

from qdet.console import open_console, print_line
from qdet.errors import ConfigError, QdetError
from qdet.storage.surroundings import settle

Settings = TypeVar("Settings")


def run_command(
    settings: type[Settings], run: Callable[[Settings], Any], *, about: str, args: list[str] | None = None
) -> None:
    """Call `run` with settings parsed from `args`; print a QdetError in one line.

    Raises:
        SystemExit: 2 for a ConfigError, 1 for another QdetError, 130 for Ctrl-C.
    """
    try:
        settle()
        run(tyro.cli(settings, args=args, description=about, prog=_program()))
    except QdetError as error:
        print_line(open_console(stderr=True), f"{type(error).__name__}: {error}", style="red")
        sys.exit(2 if isinstance(error, ConfigError) else 1)
    except KeyboardInterrupt:
        sys.exit(130)


def _program() -> str | None:
    """Return `python -m MODULE` where a module runs as a program; else tyro names the file."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    name = getattr(spec, "name", "")
    return f"python -m {name}" if name.startswith("data_prep.") else None
