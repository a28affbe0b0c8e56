"""Photographs with boxes drawn over them, which name themselves when pointed at."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from qdet.evaluation.formats import score


@dataclass(frozen=True)
class Photo:
    """An image of the dataset, perhaps scaled down."""

    jpeg: bytes
    width: int
    """Of the image file, in pixels, which boxes are in."""
    height: int


@dataclass(frozen=True)
class Outline:
    """A box over a photograph."""

    kind: str
    """CSS class: correct, false, found, missed or suggested."""
    text: str
    box_xywh: Sequence[float]


Photos = Mapping[int, Photo]
"""By image id."""
KEY = {
    "correct": "correct detection",
    "false": "false positive",
    "missed": "missed object",
    "found": "object that was found",
}


def gallery(items: Sequence[tuple[int, str, Sequence[Outline]]], photos: Photos) -> str:
    """Lay out (image id, caption in HTML, boxes) of those images that there are photographs of."""
    figures = [_figure(photos[i], caption, boxes) for i, caption, boxes in items if i in photos]
    return f'<div class="gallery">{"".join(figures)}</div>' if figures else ""


def legend(kinds: Sequence[str]) -> str:
    """Explain the colours of boxes."""
    entries = [
        f'<span><svg viewBox="0 0 22 10"><rect class="box {kind}" x="1" y="1" width="20" height="8"/></svg>'
        f"{KEY[kind]}</span>"
        for kind in kinds
    ]
    return f'<div class="key">{"".join(entries)}</div>'


def tag(kind: str, name: str, value: float) -> str:
    """Return what a box says: what it is, and its score if it is a detection."""
    return f"{KEY.get(kind, kind)}: {name}" + ("" if value != value else f" {score(value)}")


def _figure(photo: Photo, caption: str, boxes: Sequence[Outline]) -> str:
    picture = base64.b64encode(photo.jpeg).decode()
    drawn = "".join(_rect(one) for one in sorted(boxes, key=lambda b: -b.box_xywh[2] * b.box_xywh[3]))
    return (
        f'<figure><svg viewBox="0 0 {photo.width} {photo.height}"><image width="{photo.width}" '
        f'height="{photo.height}" href="data:image/jpeg;base64,{picture}"/>{drawn}</svg>'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _rect(one: Outline) -> str:
    x, y, width, height = one.box_xywh
    return (
        f'<rect class="box {one.kind}" x="{x:.1f}" y="{y:.1f}" width="{max(width, 0):.1f}" '
        f'height="{max(height, 0):.1f}"><title>{escape(one.text)}</title></rect>'
    )
