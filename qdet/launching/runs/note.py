"""What a person reads first of a run in MLflow: what it is, its command, its results, what to do next."""

import shlex
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qdet.checkpoint.run_folder import METRIC
from qdet.launching.runs.typed import command_line, next_commands

RAY_WORKER = "default_worker.py"
"""The file that Ray's own processes run."""
TAG = "mlflow.note.content"
"""MLflow's tag for a description, in Markdown."""
NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl"), ("AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


def describe_start(docstring: str | None, command: str) -> str:
    """Return what is known before the first step: what the job file says of itself, and the command."""
    about = textwrap.dedent(docstring or "").strip()
    return "\n\n".join(part for part in (about, f"```\n{command}\n```") if part)


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


def describe_trials(rows: Sequence[Mapping[str, Any]], command: str | None) -> str:
    """Return the table of a sweep, best first, and the command of its best setting.

    Args:
        rows: A row per trial, with equal columns.
        command: Trains the best setting; None if all failed.
    """
    head = list(rows[0]) if rows else []
    lines = ["|".join(head), "|".join("---" for _ in head)]
    lines += ["|".join(str(row[name]).replace("|", "/") for name in head) for row in rows]
    table = "\n".join(f"|{line}|" for line in lines) if rows else ""
    return table + (f"\n\nBest setting:\n\n```\n{command}\n```" if command else "")


def _table(metrics: Mapping[str, float], names: Sequence[str]) -> str:
    prefix = METRIC.removesuffix("AP")
    values = [metrics.get(f"{prefix}{name}") for name in names]
    cells = ["-" if value is None else f"{value:.4f}" for value in values]
    return "\n".join(f"|{'|'.join(row)}|" for row in (names, ["---:"] * len(names), cells))


def _next_commands(folder: str) -> str:
    commands = [*next_commands(folder), f"qdet register {shlex.quote(folder)} --name NAME --alias champion"]
    return "```\n" + "\n".join(commands) + "\n```"
