"""The certificate of a table: each row's AP beside the paper's, and what follows for the paper's order."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from qdet.recipes import Published
from qdet.zoo.certificates.intervals import Interval, Verdict, bootstrap, compare, judge
from qdet.zoo.certificates.results import Measured

FLOOR = 0.05
"""Mean AP below which a row has hardly begun to learn: its table decides nothing."""
FEWEST = 5
"""Seeds of every row without which nothing is decided."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """One row of the certificate."""

    name: str
    paper: float | None
    """AP in percent; None where the paper gives none."""
    ap: Interval
    """AP here, over seeds, in [0, 1]."""
    seeds: int


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two rows that are neighbours in the paper's order, and how far the higher is above the lower here."""

    lower: str
    higher: str
    paper: float
    difference: Interval
    verdict: Verdict


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """What a table's measurements say of its order."""

    lines: Sequence[Line]
    pairs: Sequence[Pair]
    missing: Sequence[str]
    """Rows that have not been measured."""
    verdict: Verdict
    why: str
    """Why the verdict is not that of the pairs; empty where it is."""


def certify(published: Mapping[str, Published], measured: Mapping[str, Measured]) -> Certificate:
    """Judge the order of a table.

    It is reproduced where every pair of neighbours in the paper's order is, and contradicted where one is.

    Args:
        published: The paper's numbers of every row, by name.
        measured: Rows that were trained; others are listed as missing.
    """
    lines = [
        Line(
            name=name,
            paper=numbers.ap,
            ap=bootstrap(list(measured[name].ap.values())),
            seeds=len(measured[name].seeds),
        )
        for name, numbers in published.items()
        if name in measured
    ]
    pairs = list(_pairs(published, measured))
    missing = [name for name in published if name not in measured]
    why = _objection(lines, missing)
    verdict: Verdict = "undecided" if why else _overall([pair.verdict for pair in pairs])
    return Certificate(lines=lines, pairs=pairs, missing=missing, verdict=verdict, why=why)


def _pairs(published: Mapping[str, Published], measured: Mapping[str, Measured]) -> Sequence[Pair]:
    """Compare measured rows with those of the next higher published AP; equal ones claim no order."""
    claimed = {name: row.ap for name, row in published.items() if row.ap is not None and name in measured}
    ranked = sorted(set(claimed.values()))
    found: list[Pair] = []
    for below, above in itertools.pairwise(ranked):
        for lower in (name for name in claimed if claimed[name] == below):
            for higher in (name for name in claimed if claimed[name] == above):
                rows = measured[lower], measured[higher]
                difference = compare(rows[0].ap, rows[1].ap)
                found.append(
                    Pair(
                        lower=lower,
                        higher=higher,
                        paper=above - below,
                        difference=difference,
                        verdict=judge(difference) if _tell(*rows) else "undecided",
                    )
                )
    return found


def _tell(*rows: Measured) -> bool:
    """Whether two rows have enough seeds in common, and not both have hardly begun to learn."""
    common = set.intersection(*(set(row.seeds) for row in rows))
    return len(common) >= FEWEST and max(bootstrap(list(row.ap.values())).mean for row in rows) >= FLOOR


def _objection(lines: Sequence[Line], missing: Sequence[str]) -> str:
    if missing:
        return f"not measured yet: {', '.join(missing)}"
    few = [line.name for line in lines if line.seeds < FEWEST]
    if few:
        return f"fewer than {FEWEST} seeds: {', '.join(few)}"
    low = [line.name for line in lines if line.ap.mean < FLOOR]
    return f"below AP {FLOOR}, too early to tell: {', '.join(low)}" if low else ""


def _overall(verdicts: Sequence[Verdict]) -> Verdict:
    if "contradicted" in verdicts:
        return "contradicted"
    return "reproduced" if verdicts and set(verdicts) == {"reproduced"} else "undecided"
