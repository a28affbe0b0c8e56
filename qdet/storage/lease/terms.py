"""The files of a lease: claiming a term, renewing it, letting go, and whether it still counts."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qdet.errors import LeaseError
from qdet.storage.folder import Folder
from qdet.storage.lease.owner import Owner
from qdet.storage.parsing import parse_json_object

LEASE = "lease"
"""Folder of the terms, in what they protect."""
LONGEST = 24 * 3600.0
"""Most seconds that a term may last without a renewal."""
_FILE = re.compile(r"term_(\d{6,})\.(.+)")
_FROM = re.compile(r"from_(\d{6,})")


@dataclass(frozen=True)
class View:
    """What one listing shows."""

    number: int
    """The highest term; 0 without any."""
    released: bool
    """Whether its holder has let go."""
    starts: Mapping[int, int]
    """Step from which each term resumed, where that is recorded."""


@dataclass(frozen=True)
class Terms:
    """The terms of what is in `protected`."""

    protected: Folder

    @property
    def folder(self) -> Folder:
        """Where their files are."""
        return self.protected.child(LEASE)

    def view(self) -> View:
        """List the terms."""
        found = [(int(m[1]), m[2]) for name in self.folder.names() if (m := _FILE.fullmatch(name))]
        number = max((number for number, _ in found), default=0)
        starts = {number: int(start[1]) for number, kind in found if (start := _FROM.fullmatch(kind))}
        return View(number, (number, "released") in found, starts)

    def claim(self, number: int, owner: Owner, seconds: float) -> bool:
        """Claim a term that nobody has; of any number of processes that do at once, one at most gets True."""
        content = json.dumps({"owner": owner.as_json(), "seconds": seconds}, indent=1).encode()
        return self.folder.create(_name(number, "json"), content)

    def holder(self, number: int) -> tuple[Owner | None, float | None]:
        """Return who claimed a term, and the seconds that it lasts without a renewal; None if unreadable."""
        content = self._read(number, "json")
        seconds = content.get("seconds")
        lasts = None
        if isinstance(seconds, int | float) and not isinstance(seconds, bool) and 0 < seconds <= LONGEST:
            lasts = float(seconds)
        return Owner.read(content.get("owner")), lasts

    def beat(self, number: int) -> Mapping[str, Any]:
        """Return the last renewal of a term; nothing before the first."""
        return self._read(number, "beat")

    def renew(self, number: int, count: int, at: float) -> None:
        """Renew a term for the `count`-th time, at Unix time `at`."""
        self.folder.put(_name(number, "beat"), json.dumps({"count": count, "at": at}).encode())

    def start(self, number: int, step: int) -> None:
        """Record the step from which the holder of a term resumed, unless that is recorded."""
        if number not in self.view().starts:
            self.folder.put(_name(number, f"from_{step:06d}"), b"")

    def release(self, number: int) -> None:
        """Let go of a term."""
        self.folder.put(_name(number, "released"), b"")
        self.folder.remove(_name(number, "beat"))

    def _read(self, number: int, kind: str) -> dict[str, Any]:
        """Return what a file says; nothing where it is not there or damaged."""
        try:
            return parse_json_object(self.folder.read(_name(number, kind)))
        except (FileNotFoundError, ValueError):
            return {}


@dataclass(frozen=True)
class Fence:
    """One term, as the processes of its holder carry it along: while it is the highest they may write."""

    terms: Terms
    number: int

    def holds(self) -> bool:
        """Whether no other process has claimed a later term, and the claim is still there."""
        return self.terms.view().number == self.number

    def check(self) -> None:
        """Raise unless it still holds.

        Raises:
            LeaseError: Another process has taken over.
        """
        if (found := self.terms.view().number) != self.number:
            raise LeaseError(self._explain(found))

    def _explain(self, found: int) -> str:
        protected = self.terms.protected
        if found < self.number:
            return f"{protected} lost the files of its lease, so this process no longer writes there"
        owner, _ = self.terms.holder(found)
        return (
            f"{protected} was taken over by {owner or 'another process'}, while this one was paused or could "
            "not reach its store. This one stops, and has changed nothing there since"
        )


def _name(number: int, kind: str) -> str:
    return f"term_{number:06d}.{kind}"
