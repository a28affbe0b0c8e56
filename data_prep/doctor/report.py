"""An examination as text, and as an object for programs."""

from typing import Any

from data_prep.doctor.check import Examination
from data_prep.wording import plural


def describe(seen: Examination) -> str:
    """Return a line per set of shards, then a line per finding."""
    lines = [
        f"{shards.source}: {plural(tally.images, 'image')}, {plural(int(tally.objects.sum()), 'object')} of "
        f"{plural(len(tally.categories), 'class')}, {plural(tally.crowds, 'crowd region')}"
        for shards, tally in zip(seen.sets, seen.tallies, strict=True)
    ]
    found = [str(finding) for finding in seen.findings] or ["nothing suspicious"]
    return "\n".join(lines + found)


def to_json(seen: Examination) -> dict[str, Any]:
    """Return counts and findings as a JSON object."""
    return {
        "folders": [
            {
                "folder": shards.source,
                "images": tally.images,
                "images_without_objects": tally.empty,
                "objects": int(tally.objects.sum()),
                "crowds": tally.crowds,
                "classes": count_classes(tally.categories.names, tally.objects, tally.images_with),
            }
            for shards, tally in zip(seen.sets, seen.tallies, strict=True)
        ],
        "findings": [finding.to_json() for finding in seen.findings],
    }


def count_classes(names: tuple[str, ...], objects: Any, images: Any) -> dict[str, dict[str, int]]:
    """Return the numbers of objects and images of each class."""
    return {
        name: {"objects": int(there), "images": int(where)}
        for name, there, where in zip(names, objects, images, strict=True)
    }
