"""Counts over the objects of a set of shards, and their summary as text and charts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.console import Console

from data_prep.charts import Bars
from data_prep.wording import plural
from qdet.console import print_line
from qdet.data.shards.shard_set import ShardSet

_SMALL, _MEDIUM = 32**2, 96**2  # COCO's area limits, in square pixels
_SHOWN_CLASSES = 40


@dataclass(frozen=True)
class Census:
    """Counts over all samples."""

    objects: np.ndarray
    """Objects per class, in the order of the categories, without crowds."""
    images: np.ndarray
    """Images per class."""
    per_image: np.ndarray
    """Objects per image."""
    areas: np.ndarray
    """Annotated area of every object, in square pixels."""
    crowds: int
    """Crowd regions."""


def count(shards: ShardSet, annotations: Sequence[Mapping[str, Any]]) -> Census:
    """Count classes and sizes over the annotations of all samples."""
    classes = len(shards.categories)
    objects, images = np.zeros(classes, np.int64), np.zeros(classes, np.int64)
    per_image, areas, crowds = [], [], 0
    for annotation in annotations:
        single = np.array(annotation["iscrowd"], np.int64) == 0
        found = np.bincount(
            shards.categories.contiguous(annotation["category_ids"])[single], minlength=classes
        )
        objects += found
        images += found > 0
        per_image.append(int(single.sum()))
        areas.append(np.array(annotation["areas"], np.float64)[single])
        crowds += int((~single).sum())
    return Census(objects, images, np.array(per_image), np.concatenate(areas), crowds)


def make_charts(census: Census, names: Mapping[int, str]) -> list[Bars]:
    """Return charts of classes, sizes and objects per image; `names` are the classes by id."""
    order = np.argsort(-census.objects, kind="stable")[:_SHOWN_CLASSES]
    listed = list(names.values())
    sides = np.sqrt(census.areas)
    edges = 2.0 ** np.arange(1, 12)
    by_side = np.bincount(np.digitize(sides, edges), minlength=len(edges) + 1)
    most = int(np.percentile(census.per_image, 99)) + 1
    by_image = np.bincount(np.minimum(census.per_image, most), minlength=most + 1)
    hidden = len(listed) - len(order)
    more = f" (the {len(order)} most frequent of {len(listed)})" if hidden else ""
    return [
        Bars(f"objects of each class{more}", [listed[i] for i in order], census.objects[order].tolist()),
        Bars(
            "objects by the square root of their area, in pixels",
            ["< 2", *(f"{low:.0f} to {2 * low:.0f}" for low in edges[:-1]), f">= {edges[-1]:.0f}"],
            by_side.tolist(),
        ),
        Bars(
            "images by number of objects",
            [*map(str, range(most)), f">= {most}"],
            by_image.tolist(),
        ),
    ]


def print_summary(census: Census, names: Mapping[int, str], console: Console) -> None:
    """Print totals and a line per class."""
    small = int((census.areas < _SMALL).sum())
    large = int((census.areas >= _MEDIUM).sum())
    total = len(census.areas)
    print_line(
        console,
        f"{plural(len(census.per_image), 'image')}, {int((census.per_image == 0).sum())} without objects; "
        f"{plural(total, 'object')} and {plural(census.crowds, 'crowd region')}\n"
        f"{small} small, {total - small - large} medium and {large} large objects, "
        f"{total / max(1, len(census.per_image)):.2f} per image",
    )
    widest, listed = max(map(len, names.values())), list(names.values())
    objects, images = census.objects.tolist(), census.images.tolist()
    for i in np.argsort(-census.objects, kind="stable").tolist():
        bar = "█" * round(30 * objects[i] / max(1, *objects))
        line = f"{listed[i]:{widest}}  {objects[i]:>8} in {images[i]:>7} images  {bar}"
        print_line(console, line)
