"""Pictures of detections: boxes with names and scores, beside the ground truth, many on one sheet.

Images are RGB bytes. Every image is first scaled to its displayed size, then drawn on, so that lines and
letters stay sharp on a 128-pixel image and on a photograph alike.
"""

import colorsys
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image, ImageDraw

from qdet.evaluation import DetectionRows
from qdet.visualize.drawing.lettering import load_font

Colour = tuple[int, int, int]
Corners = tuple[float, float, float, float]

PAPER: Colour = (250, 250, 252)
INK: Colour = (38, 42, 54)
FAINT: Colour = (120, 126, 140)
_GAP = 10


@dataclass(frozen=True)
class DrawnBoxes:
    """The boxes of one image in its own pixels; `scores` is None for ground truth."""

    boxes_xyxy: Float[np.ndarray, "n 4"]
    labels: Int[np.ndarray, " n"]
    scores: Float[np.ndarray, " n"] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @staticmethod
    def of_rows(rows: DetectionRows, image_id: int) -> "DrawnBoxes":
        """The detections of an image; labels are category ids."""
        own = rows.image_ids == image_id
        return DrawnBoxes(_corners(rows.boxes_xywh[own]), rows.category_ids[own], rows.scores[own])

    @staticmethod
    def of_truth(ground_truth: Mapping[str, Any], image_id: int) -> "DrawnBoxes":
        """The objects of an image in a COCO dict, without crowds; labels are category ids."""
        own = [
            a for a in ground_truth["annotations"] if a["image_id"] == image_id and not a.get("iscrowd", 0)
        ]
        boxes_xywh = np.array([a["bbox"] for a in own], np.float64).reshape(-1, 4)
        return DrawnBoxes(_corners(boxes_xywh), np.array([a["category_id"] for a in own], np.int64))

    def above(self, threshold: float) -> "DrawnBoxes":
        """Return the boxes of at least that score, worst first, so that the best are drawn on top."""
        if self.scores is None:
            return self
        keep = np.flatnonzero(self.scores >= threshold)
        keep = keep[np.argsort(self.scores[keep], kind="stable")]
        return DrawnBoxes(self.boxes_xyxy[keep], self.labels[keep], self.scores[keep])


def draw(
    image: UInt8[np.ndarray, "H W 3"],
    boxes: DrawnBoxes,
    names: Mapping[int, str],
    *,
    threshold: float = 0.3,
    size: int | None = None,
) -> UInt8[np.ndarray, "h w 3"]:
    """Draw `boxes` on a copy of `image` whose longer side is `size` pixels, by default its own.

    `names` maps labels to names; its order decides the colours.
    """
    height, width = image.shape[:2]
    scale = (size or max(height, width)) / max(height, width)
    shown = Image.fromarray(image)
    if scale != 1:
        new = (max(1, round(width * scale)), max(1, round(height * scale)))
        shown = shown.resize(new, Image.Resampling.BICUBIC if scale > 1 else Image.Resampling.LANCZOS)
    pen = ImageDraw.Draw(shown)
    kept = boxes.above(threshold)
    colours = {label: colour(i) for i, label in enumerate(names)}
    line = max(2, round(max(shown.size) / 220))
    corners: list[Corners] = [tuple((box * scale).tolist()) for box in kept.boxes_xyxy]
    for box, label in zip(corners, kept.labels.tolist(), strict=True):
        _outline(pen, box, colours.get(label, INK), line)
    tags: list[tuple[Corners, str, Colour]] = []
    font = load_font(max(11, min(16, round(max(shown.size) / 30))))
    for i in reversed(range(len(kept))):  # the best score is placed first
        label = int(kept.labels[i])
        name = names.get(label, str(label))
        text = name if kept.scores is None else f"{name} {kept.scores[i]:.2f}"
        extent = (pen.textlength(text, font=font) + 8, font.size + 5.0)
        place = _place(corners[i], extent, shown.size, [tag[0] for tag in tags])
        if place is not None:
            tags.append((place, text, colours.get(label, INK)))
    for place, text, ink in reversed(tags):
        _tag(pen, place, text, ink, font)
    return np.asarray(shown)


def side_by_side(
    image: UInt8[np.ndarray, "H W 3"],
    predicted: DrawnBoxes,
    truth: DrawnBoxes,
    names: Mapping[int, str],
    *,
    threshold: float = 0.3,
    size: int = 384,
    title: str = "",
) -> UInt8[np.ndarray, "h w 3"]:
    """Draw predictions at the left, ground truth at the right, each with a longer side of `size` pixels."""
    left = draw(image, predicted, names, threshold=threshold, size=size)
    right = draw(image, truth, names, size=size)
    height, width = left.shape[:2]
    bar = 26
    page = Image.new("RGB", (2 * width + _GAP, height + bar), PAPER)
    page.paste(Image.fromarray(left), (0, bar))
    page.paste(Image.fromarray(right), (width + _GAP, bar))
    pen = ImageDraw.Draw(page)
    found = len(predicted.above(threshold))
    captions = (f"{found} found at {threshold:g} or more", f"{len(truth)} in ground truth")
    for x, caption in zip((0, width + _GAP), captions, strict=True):
        pen.text((x + 2, bar / 2), caption, fill=INK, font=load_font(14), anchor="lm")
    free = width - pen.textlength(captions[1], font=load_font(14)) - 12
    if title and pen.textlength(title, font=load_font(12)) <= free:
        pen.text((page.width - 2, bar / 2), title, fill=FAINT, font=load_font(12), anchor="rm")
    return np.asarray(page)


def comparison_sheet(
    images: Mapping[int, UInt8[np.ndarray, "_h _w 3"]],
    rows: DetectionRows,
    ground_truth: Mapping[str, Any],
    *,
    threshold: float = 0.3,
    size: int = 384,
    title: str = "",
) -> UInt8[np.ndarray, "h w 3"]:
    """Lay out the detections of every image (by id) beside the ground truth of a COCO dict."""
    names = {category["id"]: category["name"] for category in ground_truth["categories"]}
    pairs = []
    for image_id, image in images.items():
        found, truth = DrawnBoxes.of_rows(rows, image_id), DrawnBoxes.of_truth(ground_truth, image_id)
        label = f"image {image_id}"
        pairs.append(side_by_side(image, found, truth, names, threshold=threshold, size=size, title=label))
    return contact_sheet(pairs, title=title)


def contact_sheet(
    pictures: Sequence[UInt8[np.ndarray, "_h _w 3"]], *, columns: int | None = None, title: str = ""
) -> UInt8[np.ndarray, "h w 3"]:
    """Lay pictures out in rows of cells of one size; the number of columns makes the sheet about square."""
    if not pictures:
        raise ValueError("a contact sheet needs at least one picture")
    width = max(p.shape[1] for p in pictures)
    height = max(p.shape[0] for p in pictures)
    columns = columns or max(1, min(len(pictures), round(math.sqrt(len(pictures) * height / width))))
    rows = [pictures[i : i + columns] for i in range(0, len(pictures), columns)]
    heights = [max(p.shape[0] for p in row) for row in rows]
    gap = 2 * _GAP
    y = gap + (36 if title else 0)
    page = Image.new("RGB", (columns * (width + gap) + gap, y + sum(heights) + gap * len(rows)), PAPER)
    if title:
        font = _fit_font(title, page.width - 2 * gap)
        ImageDraw.Draw(page).text((gap, y / 2), title, fill=INK, font=font, anchor="lm")
    for row, row_height in zip(rows, heights, strict=True):
        for column, picture in enumerate(row):
            x = gap + column * (width + gap) + (width - picture.shape[1]) // 2
            page.paste(Image.fromarray(picture), (x, y + (row_height - picture.shape[0]) // 2))
        y += row_height + gap
    return np.asarray(page)


def png(image: UInt8[np.ndarray, "H W 3"]) -> bytes:
    """Encode as PNG."""
    out = io.BytesIO()
    Image.fromarray(image).save(out, format="PNG", optimize=True)
    return out.getvalue()


def colour(index: int) -> Colour:
    """Return a bright colour for a class index; golden-ratio steps keep neighbours apart."""
    hue = (0.58 + index * 0.61803398875) % 1.0
    light, saturation = ((0.56, 0.85), (0.68, 0.75), (0.44, 0.9))[index // 8 % 3]
    red, green, blue = colorsys.hls_to_rgb(hue, light, saturation)
    return round(255 * red), round(255 * green), round(255 * blue)


def _corners(boxes_xywh: np.ndarray) -> np.ndarray:
    return np.concatenate((boxes_xywh[:, :2], boxes_xywh[:, :2] + boxes_xywh[:, 2:]), axis=1)


def _outline(pen: ImageDraw.ImageDraw, box: Corners, ink: Colour, line: int) -> None:
    """Draw a coloured frame with a dark edge, which stands out from any background."""
    x0, y0, x1, y1 = box
    x1, y1 = max(x0 + 1, x1), max(y0 + 1, y1)
    pen.rectangle((x0 - 1, y0 - 1, x1 + 1, y1 + 1), outline=(0, 0, 0), width=line + 2)
    pen.rectangle((x0, y0, x1, y1), outline=ink, width=line)


def _place(
    box: Corners, extent: tuple[float, float], page: tuple[int, int], taken: Sequence[Corners]
) -> Corners | None:
    """Return where a label of that size covers others least; None if it would hide too much."""
    width, height = extent
    left, top, right, bottom = box
    places: list[Corners] = []
    for y in (top - height, bottom, top + 2, bottom - height):
        for x in (left, right - width):
            x_in = min(max(0.0, x), max(0.0, page[0] - width))
            y_in = min(max(0.0, y), max(0.0, page[1] - height))
            places.append((x_in, y_in, x_in + width, y_in + height))
    hidden = [sum(_overlap(place, other) for other in taken) for place in places]
    least = min(range(len(places)), key=hidden.__getitem__)
    return places[least] if hidden[least] <= width * height / 3 else None


def _tag(pen: ImageDraw.ImageDraw, place: Corners, text: str, ink: Colour, font: Any) -> None:
    """Draw a name on a box of its class's colour."""
    pen.rounded_rectangle(place, radius=3, fill=ink)
    dark = 0.299 * ink[0] + 0.587 * ink[1] + 0.114 * ink[2] < 140
    middle = ((place[0] + place[2]) / 2, (place[1] + place[3]) / 2)
    pen.text(middle, text, fill=(255, 255, 255) if dark else (20, 20, 24), font=font, anchor="mm")


def _overlap(a: Corners, b: Corners) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def _fit_font(text: str, width: int) -> Any:
    """Return the largest font for titles in which `text` is no wider than `width`, or else the smallest."""
    fonts = [load_font(size, bold=True) for size in range(20, 9, -1)]
    return next((font for font in fonts if font.getlength(text) <= width), fonts[-1])
