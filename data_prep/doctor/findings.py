"""A finding: what may be wrong, how often, where for example, and what to do."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from data_prep.wording import shorten

SHOWN = 5
"""Examples that a finding keeps."""


@dataclass(frozen=True)
class Finding:
    """One thing that may be wrong."""

    check: str
    """Name of the check, the same in all versions: tiny_boxes."""
    level: Literal["warning", "note"]
    """A warning is probably a mistake; a note may be as it should."""
    folder: str
    """Shards it was found in; joined by " and " where it concerns two."""
    count: int
    """Number of objects, images, pairs or classes."""
    text: str
    """What was found and what to do."""
    examples: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        return asdict(self)

    def __str__(self) -> str:
        shown = f" ({shorten(self.examples, SHOWN)})" if self.examples else ""
        return f"{self.level}: {self.folder}: {self.text}{shown}"


def sort_findings(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """Return warnings before notes, each in the order found."""
    return tuple(sorted(findings, key=lambda one: one.level != "warning"))
