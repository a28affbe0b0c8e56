"""What was measured: a line of JSON each, written at once, and tables made of them."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.scale import Scale
from benchmarks.machine import describe_machine
from qdet.tracking import git_commit
from qdet.training.beginning.conditions import find_version

Line = dict[str, Any]
FILE, TABLES = "gpu.jsonl", "gpu.md"
IDENTITY = ("section", "name", "variant")
"""Keys that say which measurement a line is."""
SAME = ("card", "processor", "sizes", "seed")
"""What two runs must share to be compared; the processor only where there is no card."""


class Report:
    """Appends lines to `FILE` in a folder; a run that is cut off keeps what it has."""

    def __init__(self, folder: Path, scale: Scale, seed: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.lines = folder, list[Line]()
        self._context = describe_machine() | {
            "triton": find_version("triton"),
            "cuda": torch.version.cuda,
            "clock_mhz": _clock(),
            "commit": git_commit(),
            "seed": seed,
            "sizes": describe_sizes(scale),
        }
        (folder / FILE).write_text("")

    def add(self, section: str, line: Line) -> None:
        """Record a measurement and print it."""
        whole = {"section": section} | line
        self.lines.append(whole)
        with (self.folder / FILE).open("a", encoding="utf-8") as file:
            file.write(json.dumps(whole | {"of": self._context}) + "\n")
        print(json.dumps(whole), flush=True)

    def finish(self, before: Path | None) -> None:
        """Write and print the tables, beside those of an earlier run where there is one."""
        earlier = {} if before is None else by_identity(read_lines(before))
        text = format_tables(self.lines, earlier)
        (self.folder / TABLES).write_text(text)
        print(text)

    def refuse_unlike(self, before: Path) -> None:
        """Raise SystemExit where an earlier run is of another card, or measured something else."""
        lines = read_lines(before)
        if not lines:
            raise SystemExit(f"{before} has no measurement")
        theirs = lines[0]["of"]
        keys = [key for key in SAME if key != "processor" or self._context["card"] is None]
        unlike = [key for key in keys if theirs.get(key) != self._context[key]]
        if unlike:
            said = "; ".join(f"{key} {theirs.get(key)}, here {self._context[key]}" for key in unlike)
            raise SystemExit(f"{before} cannot be compared with this run: {said}")


def read_lines(file: Path) -> list[Line]:
    """Read the lines of an earlier run; one that was cut off is left out.

    Raises:
        SystemExit: the file is not there, or holds something else.
    """
    try:
        texts = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SystemExit(f"{file} cannot be read: {error}") from error
    lines = []
    for number, text in enumerate(texts):
        try:
            line = json.loads(text)
        except ValueError:
            if number == len(texts) - 1:
                continue
            raise SystemExit(f"{file}, line {number + 1}: not JSON") from None
        if not isinstance(line, dict) or not isinstance(line.get("of"), dict):
            raise SystemExit(f"{file}, line {number + 1}: not a measurement of benchmarks.gpu")
        lines.append(line)
    return lines


def by_identity(lines: Iterable[Line]) -> dict[tuple[Any, ...], Line]:
    """Return lines by the measurement that they are."""
    return {tuple(line.get(key) for key in IDENTITY): line for line in lines}


def format_tables(lines: list[Line], earlier: Mapping[tuple[Any, ...], Line]) -> str:
    """Return a Markdown table for each section, with the ratio of an earlier run's time to this one's."""
    parts = []
    for section in dict.fromkeys(line["section"] for line in lines):
        rows = [line for line in lines if line["section"] == section]
        shown = [flatten_line(row) for row in rows]
        for row, cells in zip(rows, shown, strict=True):
            before = earlier.get(tuple(row.get(key) for key in IDENTITY), {})
            if before.get("ms") and row.get("ms"):
                cells["before / now"] = f"{before['ms'] / row['ms']:.2f}"
        keys = list(dict.fromkeys(key for cells in shown for key in cells))
        table = [f"| {' | '.join(keys)} |", f"|{' --- |' * len(keys)}"]
        table += [f"| {' | '.join(cells.get(key, '') for key in keys)} |" for cells in shown]
        parts.append("\n".join((f"## {section}", "", *table, "")))
    return "\n".join(parts)


def flatten_line(line: Line) -> dict[str, str]:
    """Return the cells of a row; lists are left to the JSON."""
    return {
        key.replace("_", " "): f"{value:.4g}" if isinstance(value, float) else str(value)
        for key, value in line.items()
        if key != "section" and not isinstance(value, list | dict)
    }


def describe_sizes(scale: Scale) -> dict[str, Any]:
    """Return the sizes of a run as JSON."""
    return json.loads(json.dumps(asdict(scale) | {"device": scale.device.type}))


def _clock() -> int | None:
    """Return the current clock of the card in MHz, where NVIDIA's library can be asked."""
    if not torch.cuda.is_available():
        return None
    try:
        return torch.cuda.clock_rate()
    except Exception:  # nvidia-ml-py is not installed, or may not ask
        return None
