"""A page: panels in rows and columns with titles, and a legend below."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw

from qdet.visualize.drawing.colours import Colour, colours_at
from qdet.visualize.drawing.lettering import load_font
from qdet.visualize.drawing.panel import Panel

PAPER: Colour = (255, 255, 255)
INK: Colour = (38, 42, 54)
FAINT: Colour = (105, 111, 125)
GAP = 12
TITLE = 30
CAPTION = 24
LEGEND = 30


@dataclass(frozen=True)
class Sample:
    """A mark and what it means."""

    text: str
    ink: Colour
    mark: Literal["dot", "line", "dashes", "cross"] = "line"


@dataclass(frozen=True)
class Scale:
    """A strip of colours from low to high, with texts at places from 0 to 1 along it."""

    text: str
    colours: Float[np.ndarray, "k 3"]
    ticks: tuple[tuple[float, str], ...]


@dataclass(frozen=True)
class Row:
    """Panels beside each other."""

    panels: tuple[UInt8[np.ndarray, "h w 3"], ...]
    caption: str = ""
    """Of the whole row."""
    heads: tuple[str, ...] = ()
    """Of each panel."""


def lay_out(
    rows: Sequence[Row],
    *,
    title: str = "",
    legend: Sequence[Sample | Scale] = (),
) -> UInt8[np.ndarray, "h w 3"]:
    """Lay rows of panels below each other."""
    width = max([_panels_width(row) for row in rows] + [_text_width(title, 17, bold=True)]) + 2 * GAP
    lines = _wrap(legend, width - 2 * GAP)
    height = GAP + (TITLE if title else 0) + sum(map(_row_height, rows)) + LEGEND * len(lines)
    page = Image.new("RGB", (width, height + GAP // 2), PAPER)
    pen, y = ImageDraw.Draw(page), GAP
    if title:
        pen.text((GAP, y + 9), title, fill=INK, font=load_font(17, bold=True), anchor="lm")
        y += TITLE
    for row in rows:
        _draw_row(page, pen, row, y)
        y += _row_height(row)
    for line in lines:
        x = GAP
        for item in line:
            x += _draw_item(page, pen, item, x, y + LEGEND // 2) + 2 * GAP
        y += LEGEND
    return np.asarray(page)


def _draw_row(page: Image.Image, pen: ImageDraw.ImageDraw, row: Row, y: int) -> None:
    if row.heads:
        _write_heads(pen, row, y)
        y += CAPTION
    if row.caption:
        pen.text((GAP, y + CAPTION / 2), row.caption, fill=INK, font=load_font(14, bold=True), anchor="lm")
        y += CAPTION
    x = GAP
    for panel in row.panels:
        page.paste(Image.fromarray(panel), (x, y))
        x += panel.shape[1] + GAP


def _write_heads(pen: ImageDraw.ImageDraw, row: Row, y: int) -> None:
    x = GAP
    for text, panel in zip(row.heads, row.panels, strict=True):
        middle = (x + panel.shape[1] / 2, y + CAPTION / 2)
        pen.text(middle, text, fill=FAINT, font=load_font(14), anchor="mm")
        x += panel.shape[1] + GAP


def _panels_width(row: Row) -> int:
    panels = sum(panel.shape[1] + GAP for panel in row.panels) - GAP
    return max(panels, _text_width(row.caption, 14, bold=True))


def _row_height(row: Row) -> int:
    """Height of a row with its texts and the gap below it."""
    texts = CAPTION * (bool(row.heads) + bool(row.caption))
    return texts + max(panel.shape[0] for panel in row.panels) + GAP


def _wrap(legend: Sequence[Sample | Scale], width: int) -> list[list[Sample | Scale]]:
    """Put as many items on each line as fit."""
    lines: list[list[Sample | Scale]] = []
    left = 0
    for item in legend:
        needed = _item_width(item) + 2 * GAP
        if not lines or needed > left + 2 * GAP:
            lines.append([])
            left = width
        lines[-1].append(item)
        left -= needed
    return lines


_MARK, _STRIP = 30, 150


def _item_width(item: Sample | Scale) -> int:
    text = _text_width(item.text, 13)
    if isinstance(item, Sample):
        return _MARK + 6 + text
    return text + 10 + _STRIP + sum(_text_width(t, 12) for _, t in item.ticks[:1] + item.ticks[-1:]) // 2


def _draw_item(page: Image.Image, pen: ImageDraw.ImageDraw, item: Sample | Scale, x: int, y: int) -> int:
    """Draw an item whose left end is x and whose middle is y; return its width."""
    if isinstance(item, Scale):
        _draw_scale(page, pen, item, x, y)
    else:
        _draw_mark(page, item, x, y)
        pen.text((x + _MARK + 6, y), item.text, fill=INK, font=load_font(13), anchor="lm")
    return _item_width(item)


def _draw_scale(page: Image.Image, pen: ImageDraw.ImageDraw, item: Scale, x: int, y: int) -> None:
    pen.text((x, y), item.text, fill=INK, font=load_font(13), anchor="lm")
    left = x + _text_width(item.text, 13) + 10 + _text_width(item.ticks[0][1], 12) // 2
    strip = colours_at(np.linspace(0, 1, _STRIP), item.colours)
    page.paste(Image.fromarray(np.repeat(strip[None], 9, axis=0)), (left, y - 10))
    for at, text in item.ticks:
        place = left + at * (_STRIP - 1)
        pen.line((place, y - 1, place, y + 2), fill=FAINT)
        pen.text((place, y + 9), text, fill=FAINT, font=load_font(12), anchor="mm")


def _draw_mark(page: Image.Image, item: Sample, x: int, y: int) -> None:
    """Draw a mark as on a panel: on a dark ground, finer, then reduced."""
    ground = Panel(np.full((18, _MARK, 3), 70, np.uint8), size=_MARK)
    middle = np.array((_MARK / 2, 9.0))
    if item.mark == "dot":
        ground.dots(middle[None], [item.ink], [4.0])
    elif item.mark == "cross":
        ground.cross(middle, item.ink)
    else:
        ends = np.array(((4.0, 9.0), (_MARK - 4.0, 9.0)))
        ground.line(ends, item.ink, width=2.0, dashed=item.mark == "dashes")
    page.paste(Image.fromarray(ground.finish()), (x, y - 9))


def _text_width(text: str, size: int, *, bold: bool = False) -> int:
    return round(load_font(size, bold=bold).getlength(text)) if text else 0
