"""Fewer points where there is no room for all: every curve keeps its shape, its first point and its last.

Curves of few points, such as those of evaluations, come last. Tags that were set again are left out first:
MLflow shows only the last.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

Record = dict[str, Any]
Item = TypeVar("Item")
_Series = tuple[str, tuple[str, ...]] | None
FEW = 100
"""Points of a curve that is left as it is while others can be thinned."""


class Thinning:
    """Chooses which records stay. It sees all of them twice: first to count them, then to choose."""

    def __init__(self) -> None:
        self._counts: Counter[_Series] = Counter()
        self._seen: Counter[_Series] = Counter()
        self.points = 0
        """Records of metrics among them."""
        self.dropped = 0
        """Of those, the ones that did not stay."""

    def count(self, records: Iterable[Record]) -> None:
        """Count records."""
        for record in records:
            self._counts[_series(record)] += 1
            self.points += record.get("kind") == "metrics"

    def choose(self, items: Iterable[tuple[Record, Item]]) -> Iterator[Item]:
        """Yield what belongs to the records that stay."""
        curves = [n for series, n in self._counts.items() if series is not None and series[0] == "metrics"]
        least = FEW if any(n > FEW for n in curves) else 2
        for record, item in items:
            if self._stays(record, least):
                yield item

    def _stays(self, record: Record, least: int) -> bool:
        series = _series(record)
        if series is None:
            return True
        self._seen[series] += 1
        place, of = self._seen[series], self._counts[series]
        if series[0] == "tags":
            return place == of
        stays = of <= least or place % 2 == 1 or place == of
        self.dropped += not stays
        return stays


def thin(records: list[Record]) -> tuple[list[Record], int]:
    """Return the records that stay, and how many points are dropped."""
    thinning = Thinning()
    thinning.count(records)
    kept = list(thinning.choose((record, record) for record in records))
    return kept, thinning.dropped


def _series(record: Record) -> _Series:
    """Return the curves, or the tags, that a record belongs to; None where it must stay."""
    kind, values = record.get("kind"), record.get("values")
    if kind not in ("metrics", "tags") or not isinstance(values, dict):
        return None
    return str(kind), tuple(sorted(values))
