"""Counts of irregular entries in annotations: what was dropped, filled in or read otherwise, and where."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

FIRST = 3
"""Places that are named of each kind."""
_LONGEST = 80
"""Characters of a value that are shown."""
_MOSTLY = 0.95
"""Part of the boxes that must look so before all of them are suspected."""
_OFTEN = 0.2
"""Part of the boxes that must leave their images before they are suspected to be corners."""

WARNINGS: Mapping[str, str] = {
    "area_out_of_range": "an `area` below 0 or above 1e10 is left out by COCO's evaluation; width x height "
    "stands in for it",
    "boxes_from_segmentation": "they have no readable `bbox`; the box around their polygons or mask is used",
    "boxes_given_as_objects": "their `bbox` is an object; its names say which number is which",
    "boxes_look_like_corners": "boxes must be left, top, width, height; read so, many leave their images, "
    "but nearly all would fit as left, top, right, bottom: convert them, or their sizes are wrong",
    "boxes_look_normalised": "boxes must be in pixels, but nearly all numbers are in [0, 1]: multiply them "
    "by the width and height of their images",
    "dropped_without_class": "an object needs the id or the name of its class",
    "ignore_unreadable": "`ignore` must be 0 or 1; taken as 0",
    "ignored_as_crowds": "objects with `ignore: 1` are treated as crowds: not trained on, and neither found "
    "nor missed in evaluation",
    "images_with_EXIF_orientation": "viewers turn or mirror them, qdet reads pixels as they are stored: "
    "boxes that were drawn on the turned image do not fit; store such images upright",
    "iscrowd_unreadable": "`iscrowd` must be 0 or 1; taken as 0",
}
"""What a count of this kind means for training and evaluation."""


@dataclass
class Report:
    """Counts by kind, each with the first places where it occurred."""

    counts: Counter[str] = field(default_factory=Counter)
    first: dict[str, list[str]] = field(default_factory=dict)
    """Up to `FIRST` places of each kind: an image and, where that helps, the value."""
    listed: int = 0
    """Objects in the annotations, before any is dropped."""
    _shapes: Counter[str] = field(default_factory=Counter)
    _shaped: dict[str, list[str]] = field(default_factory=dict)

    def add(self, kind: str, place: str, value: Any = None) -> None:
        """Count an irregular entry of the image `place`."""
        self.counts[kind] += 1
        _append(self.first.setdefault(kind, []), place, value)

    def see_box(self, box: tuple[float, float, float, float], size_hw: tuple[int, int], place: str) -> None:
        """Look at a readable box (left, top, width, height in pixels), for what only all boxes can show."""
        x, y, w, h = box
        height, width = size_hw
        shapes = self._shapes
        shapes["seen"] += 1
        if 0 <= x <= 1 and 0 <= y <= 1 and w <= 1 and h <= 1:
            shapes["normalised"] += 1
            _append(self._shaped.setdefault("normalised", []), place, box)
        if w > x >= 0 and h > y >= 0 and w <= width + 1 and h <= height + 1:
            shapes["corners"] += 1
            if x + w > width + 1 or y + h > height + 1:
                shapes["leaving"] += 1
                _append(self._shaped.setdefault("leaving", []), place, box)

    def merge(self, other: "Report") -> None:
        """Add the counts of other annotations of the same dataset, which come after these."""
        self.listed += other.listed
        for mine, theirs in ((self.counts, other.counts), (self._shapes, other._shapes)):
            mine.update(theirs)
        for mine, theirs in ((self.first, other.first), (self._shaped, other._shaped)):
            for kind, places in theirs.items():
                mine[kind] = [*mine.get(kind, ()), *places][:FIRST]

    def close(self) -> "Report":
        """Count what all boxes together show: that they are normalised, or corners; return the report."""
        shapes, seen = self._shapes, self._shapes["seen"]
        if seen and shapes["normalised"] >= _MOSTLY * seen:
            self._suspect("boxes_look_normalised", "normalised")
        elif shapes["leaving"] and shapes["leaving"] >= _OFTEN * seen and shapes["corners"] >= _MOSTLY * seen:
            self._suspect("boxes_look_like_corners", "leaving")
        return self

    def _suspect(self, kind: str, shape: str) -> None:
        self.counts[kind] = self._shapes[shape]
        self.first[kind] = self._shaped[shape]

    @property
    def dropped(self) -> int:
        """Objects that were dropped."""
        return sum(count for kind, count in self.counts.items() if _drops_a_box(kind))

    def explain_loss(self) -> str | None:
        """Say what is wrong with the objects where all of them were dropped; None where some are left."""
        if not self.listed or self.dropped < self.listed:
            return None
        kinds = sorted(kind for kind in self.counts if _drops_a_box(kind))
        return ", ".join(f"{words(kind)}: {self.counts[kind]:,}{_places(self.first[kind])}" for kind in kinds)


def describe_report(counts: Mapping[str, int], first: Mapping[str, Iterable[str]]) -> list[str]:
    """Return a line per kind: how often, where first and, where it matters, what follows."""
    lines = []
    for kind, count in counts.items():
        said = f"{words(kind)}: {count}{_places(first.get(kind, ()))}"
        lines.append(f"warning: {said}; {WARNINGS[kind]}" if kind in WARNINGS else said)
    return lines


def describe_objects(objects: int | None, address: str, *, training: bool) -> str | None:
    """Return a warning about a dataset without objects; None where it has some, or that is not known."""
    if objects is None or objects:
        return None
    follows = (
        "a detector trained on it learns to find nothing"
        if training
        else "there is no ground truth, so there will be no AP"
    )
    return f"WARNING: no image of {address} has an object (crowds do not count): {follows}"


def words(kind: str) -> str:
    """Return the name of a count as text."""
    return kind.replace("_", " ")


def _drops_a_box(kind: str) -> bool:
    return kind.startswith("dropped_") and not kind.startswith("dropped_images_")


def _append(places: list[str], place: str, value: Any) -> None:
    if len(places) < FIRST:
        shown = "" if value is None else f" {_shorten(value)}"
        places.append(f"{place}{shown}")


def _shorten(value: Any) -> str:
    text = repr(list(value) if isinstance(value, tuple) else value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def _places(places: Iterable[str]) -> str:
    listed = list(places)
    return f" (first: {', '.join(listed)})" if listed else ""
