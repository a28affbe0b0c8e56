"""Run a function as a command: flags from a settings class, expected errors in one line."""

import sys
from collections.abc import Callable
from typing import Any, TypeVar

import tyro
from rich.console import Console

from qdet.errors import QdetError

Settings = TypeVar("Settings")


def run_command(
    settings: type[Settings], run: Callable[[Settings], Any], *, about: str, args: list[str] | None = None
) -> None:
    """Call `run` with settings parsed from `args`; on a QdetError print its message and exit with 1."""
    try:
        run(tyro.cli(settings, args=args, description=about))
    except QdetError as error:
        console = Console(stderr=True, highlight=False, soft_wrap=True)
        console.print(f"error: {error}", markup=False, style="red")
        sys.exit(1)
