"""What a person reads first of a run in MLflow: what it is, its command, its results, what to do next."""

import shlex
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

from qdet.checkpoint.run_folder import METRIC
from qdet.launching.runs.typed import command_line, next_commands

WIDTH, LONGEST_VALUE = 120, 20
"""Characters of a command that MLflow's page shows in a line, and of these for the value of its last flag."""
RAY_WORKER = "default_worker.py"
"""The file that Ray's own processes run."""
TAG = "mlflow.note.content"
"""MLflow's tag for a description, in Markdown."""
GAP = "&nbsp;&nbsp;&nbsp;"
"""Ends cells: MLflow's page leaves no space between columns."""
NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl"), ("AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


def describe_start(docstring: str | None, command: str) -> str:
    """Return what is known before the first step: what the job file says of itself, and the command."""
    about = textwrap.dedent(docstring or "").strip()
    return "\n\n".join(part for part in (about, show_command(command)) if part)


def show_command(command: str) -> str:
    """Return a command as Markdown, broken into lines that the page does not cut, before its flags.

    >>> print(show_command("python jobs/detr.py"))
    ```
    python jobs/detr.py
    ```
    """
    try:
        words = shlex.split(command, posix=False)  # with their quotes
    except ValueError:  # a secret was masked together with a quote
        words = []
    if " ".join(words) != command:
        words = [command]
    lines = words[:1]
    for word in words[1:]:
        if word.startswith("--") and len(f"{lines[-1]} {word}") > WIDTH - LONGEST_VALUE:
            lines.append(f"    {word}")
        else:
            lines[-1] += f" {word}"
    return "```\n" + " \\\n".join(lines) + "\n```"


def describe_results(metrics: Mapping[str, float], *, step: int, folder: str, best: int | None) -> str:
    """Return the table of results, first, as the page shows only the first lines, and the next commands.

    Args:
        metrics: Of the last evaluation, such as `val/AP`.
        step: Steps done.
        folder: The run's, as a user types it.
        best: Steps behind its best checkpoint; None where it has none.
    """
    done = f"After {step} steps"
    if best is not None:
        done += f"; best checkpoint: `step_{best:06d}`" + (" (the last)" if best == step else "")
    return "\n\n".join([*(_table(metrics, names) for names in NAMES), done, _next_commands(folder)])


def job_file() -> Path | None:
    """Return the job file that this process runs; None in one that Ray has started."""
    file = Path(getattr(sys.modules["__main__"], "__file__", None) or "")
    return file if file.suffix == ".py" and file.is_file() and file.name != RAY_WORKER else None


def describe_process() -> str:
    """Describe the job file that this process runs, and its command; nothing in one that Ray has started."""
    if job_file() is None:
        return ""
    return describe_start(sys.modules["__main__"].__doc__, command_line())


def _table(metrics: Mapping[str, float], names: Sequence[str]) -> str:
    prefix = METRIC.removesuffix("AP")
    values = [metrics.get(f"{prefix}{name}") for name in names]
    cells = ["-" if value is None else f"{value:.4f}" for value in values]
    return lay_out(names, [cells], rule="---:")


def lay_out(head: Sequence[str], rows: Sequence[Sequence[str]], *, rule: str = "---") -> str:
    """Return a table in Markdown.

    Args:
        head: Names of the columns.
        rows: Of as many cells.
        rule: Aligns all columns: `---:` to the right.
    """
    first, *others = (
        "".join(f"|{cell.replace('|', '/')}{GAP}" for cell in row).removesuffix(GAP) + "|"
        for row in (head, *rows)
    )
    return "\n".join([first, f"|{'|'.join([rule] * len(head))}|", *others])


def _next_commands(folder: str) -> str:
    commands = [*next_commands(folder), f"qdet register {shlex.quote(folder)} --name NAME --alias champion"]
    return "```\n" + "\n".join(commands) + "\n```"
