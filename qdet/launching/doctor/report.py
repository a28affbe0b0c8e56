"""An examination for people and for programs."""

import json
from collections.abc import Sequence
from dataclasses import asdict

from rich.console import Console
from rich.table import Table
from rich.text import Text

from data_prep.wording import plural, shorten
from qdet.console import print_line
from qdet.launching.doctor.facts import Facts
from qdet.launching.doctor.findings import Finding, worst

NAMED = 8
"""Machines that a finding names; of more it says how many."""
STYLES = {"ok": "green", "warning": "yellow", "wrong": "bold red"}


def show(findings: Sequence[Finding], console: Console) -> None:
    """Print a row for every finding, and how many are not ok; long texts fold in a narrow terminal."""
    table = Table(box=None, pad_edge=False, show_header=False)
    for name in ("state", "check"):
        table.add_column(name, no_wrap=True)
    table.add_column("found", overflow="fold")
    for finding in findings:
        table.add_row(
            Text(finding.state, style=STYLES[finding.state]), Text(finding.check), Text(_say(finding))
        )
    console.print(table)
    print_line(console, summarize(findings))


def summarize(findings: Sequence[Finding]) -> str:
    """Return the last line: what an exit code of 0 or 1 stands for."""
    wrong, warnings = (sum(f.state == state for f in findings) for state in ("wrong", "warning"))
    if not wrong and not warnings:
        return "all is well"
    parts = [f"{wrong} wrong"] if wrong else []
    return ", ".join([*parts, *([plural(warnings, "warning")] if warnings else [])])


def as_json(findings: Sequence[Finding], facts: Facts) -> str:
    """Return findings and facts as one JSON object; times are seconds, sizes bytes."""
    content = {
        "state": worst(findings),
        "findings": [asdict(finding) for finding in findings],
        "facts": asdict(facts),
    }
    return json.dumps(content, indent=1)


def _say(finding: Finding) -> str:
    where = f"{shorten(finding.where, NAMED)}: " if finding.where else ""
    return f"{where}{finding.found}" + (f"\n-> {finding.do}" if finding.do else "")
