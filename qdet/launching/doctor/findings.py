"""What facts mean: each check is ok, a warning or wrong, and says where and what to do."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeVar

T = TypeVar("T")
State = Literal["ok", "warning", "wrong"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What one check found, on the machines for which it is the same."""

    check: str
    state: State
    found: str
    where: tuple[str, ...] = ()
    """Machines; none where it is about all."""
    do: str | None = None
    """What to do; None where nothing is."""


class Verdict(NamedTuple):
    """What is not well on a machine."""

    state: State
    found: str
    do: str


def group(check: str, verdicts: Mapping[str, Verdict | None]) -> list[Finding]:
    """Return a finding for each verdict, with the machines that share it; None is none."""
    shared: dict[Verdict, list[str]] = {}
    for name, verdict in verdicts.items():
        if verdict is not None:
            shared.setdefault(verdict, []).append(name)
    return [
        Finding(check=check, state=one.state, found=one.found, do=one.do, where=tuple(names))
        for one, names in shared.items()
    ]


def most_common(values: Iterable[T], first: T) -> T:
    """Return the value that most have; of several, `first` where it is among them."""
    counts = Counter(values)
    best = max(counts.values(), default=0)
    return first if counts[first] == best else counts.most_common(1)[0][0]


def worst(findings: Sequence[Finding]) -> State:
    """Return the worst state of all; ok where there are none."""
    found = {finding.state for finding in findings}
    return "wrong" if "wrong" in found else "warning" if "warning" in found else "ok"


def human(size: int | float) -> str:
    """Return bytes for people.

    >>> human(3 * 2**30), human(5 * 2**19)
    ('3.0 GiB', '2.5 MiB')
    """
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"
