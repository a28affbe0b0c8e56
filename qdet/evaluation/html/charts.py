"""Charts as SVG and bars as HTML; every name that comes in is escaped here."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from jaxtyping import Float64, Int64

from qdet.evaluation.formats import percent, signed

_WIDTH, _HEIGHT, _LEFT, _TOP, _BOTTOM = 480, 320, 42, 10, 36
_FOREST_ZERO, _FOREST_REACH, _FOREST_STEP = 260, 138, 22


@dataclass(frozen=True)
class Series:
    """A line; values that are NaN interrupt it."""

    name: str
    x: Float64[np.ndarray, " n"]
    y: Float64[np.ndarray, " n"]
    strong: bool = False
    hue: float = 220
    """Degrees on the colour circle, for lines that are not strong."""


@dataclass(frozen=True)
class Bar:
    """A horizontal bar; `value` is a share of 1."""

    name: str
    value: float | int
    remark: str = ""
    colour: str = "blue"


def line_chart(series: Sequence[Series], *, x: str, y: str) -> str:
    """Draw lines over [0, 1] x [0, 1]; pointing at one names it."""
    parts, opacity = [_axes(x, y)], max(0.2, 0.7 * min(1.0, 12 / max(1, len(series))))
    for one in sorted(series, key=lambda s: s.strong):
        style = (
            'stroke="var(--blue)" stroke-width="3"'
            if one.strong
            else f'stroke="hsl({one.hue:.0f} 60% 52%)" stroke-width="1.3" opacity="{opacity:.2f}"'
        )
        parts.append(f'<path d="{_path(one.x, one.y)}" {style}><title>{escape(one.name)}</title></path>')
    return _svg(_WIDTH, _HEIGHT, parts, "chart")


def reliability_chart(
    edges: Float64[np.ndarray, " n1"], precisions: Float64[np.ndarray, " n"], counts: Int64[np.ndarray, " n"]
) -> str:
    """Draw precision by score as columns, beside the diagonal of a calibrated model."""
    parts = [_axes("score", "share that is right")]
    for low, high, value, number in zip(edges[:-1], edges[1:], precisions, counts, strict=True):
        if number:
            (left, top), (right, floor) = _at(low, value), _at(high, 0)
            parts.append(
                f'<rect x="{left + 1:.1f}" y="{top:.1f}" width="{right - left - 2:.1f}" '
                f'height="{floor - top:.1f}" fill="var(--blue)" opacity=".8"><title>score {low:.1f} to '
                f"{high:.1f}: {percent(value)}% of {number:,} right</title></rect>"
            )
    (x0, y0), (x1, y1) = _at(0, 0), _at(1, 1)
    parts.append(
        f'<line x1="{x0}" y1="{y0}" x2="{x1}" y2="{y1}" stroke="var(--amber)" stroke-width="2" '
        'stroke-dasharray="6 5"><title>perfectly calibrated</title></line>'
    )
    return _svg(_WIDTH, _HEIGHT, parts, "chart")


def spark(values: Float64[np.ndarray, " n"]) -> str:
    """Draw a small curve over [0, 1]."""
    if np.isnan(values).all():
        return ""
    x = np.linspace(1, 79, len(values))
    points = " ".join(f"{a:.1f},{21 - 19 * b:.1f}" for a, b in zip(x, np.nan_to_num(values), strict=True))
    area = f'<polygon points="1,21 {points} 79,21" fill="var(--soft)"/>'
    line = f'<polyline points="{points}" fill="none" stroke="var(--blue)" stroke-width="1.5"/>'
    return f'<svg width="80" height="22" viewBox="0 0 80 22" style="display:inline">{area}{line}</svg>'


def bars(rows: Sequence[Bar], *, unit: str = "") -> str:
    """Draw horizontal bars, the longest of the full width."""
    most = max((bar.value for bar in rows if not math.isnan(bar.value)), default=0) or 1
    return "".join(_bar(bar, most, unit) for bar in rows)


def _bar(bar: Bar, most: float | int, unit: str) -> str:
    value = 0.0 if math.isnan(bar.value) else bar.value
    remark = f"<small>{escape(bar.remark)}</small>" if bar.remark else ""
    style = f"width:{100 * value / most:.2f}%;background:var(--{bar.colour})"
    return (
        f'<div class="bar"><span>{escape(bar.name)}{remark}</span><u><i style="{style}"></i></u>'
        f"<b>{percent(bar.value)}{unit}</b></div>"
    )


def heat_map(names: Sequence[str], counts: Int64[np.ndarray, "K1 K1"]) -> str:
    """Draw a confusion matrix, each row shaded by its shares; the last row and column are the background."""
    size = len(counts)
    cell = 46 if size <= 13 else max(8, min(24, 780 // size))
    letters = max(8, min(12, cell))
    left = round(min(170, 8 + 0.62 * letters * min(22, max(map(len, (*names, "false positive"))))))
    whole = np.maximum(counts.sum(1, keepdims=True), 1)
    parts = []
    for row, column in np.argwhere(counts).tolist():
        number = int(counts[row, column])
        title = _cell_title(names, row, column, number)
        place = (left + column * cell, left + row * cell, cell)
        parts.append(_cell(*place, number / int(whole[row, 0]), title, number, row == column))
    for i, (across, down) in enumerate(zip((*names, "missed"), (*names, "false positive"), strict=True)):
        middle = left + i * cell + cell / 2
        style, base = f'style="font-size:{letters}px"', f"{middle + letters / 3:.1f}"
        parts.append(
            f'<text x="{left - 5}" y="{base}" text-anchor="end" {style}>{_short(down)}</text>'
            f'<text transform="translate({base} {left - 5}) rotate(-90)" {style}>{_short(across)}</text>'
        )
    edge = left + size * cell
    for line in range(size + 1) if size <= 13 else (0, size - 1, size):
        at = left + line * cell
        parts.append(f'<path class="axis" d="M{left} {at}H{edge}M{at} {left}V{edge}"/>')
    return _svg(edge + 2, edge + 2, parts, "map", fixed=True)


def _cell(
    x: float | int, y: float | int, size: int, share: float, title: str, number: int, right: bool
) -> str:
    colour = "var(--green)" if right else "var(--red)"
    opacity = 0.12 + 0.88 * share
    rect = (
        f'<rect x="{x}" y="{y}" width="{size}" height="{size}" fill="{colour}" opacity="{opacity:.3f}">'
        f"<title>{title}</title></rect>"
    )
    if size < 40:
        return rect
    middle = f'x="{x + size / 2}" y="{y + size / 2 + 4}" text-anchor="middle" pointer-events="none"'
    return rect + f'<text class="value" {middle}>{number:,}</text>'


def _cell_title(names: Sequence[str], row: int, column: int, number: int) -> str:
    if row == len(names):
        return f"{number:,} x {escape(names[column])} where there is none"
    if column == len(names):
        return f"{number:,} x {escape(names[row])} missed"
    if row == column:
        return f"{number:,} x {escape(names[row])} found"
    return f"{number:,} x {escape(names[row])} taken for {escape(names[column])}"


def forest_chart(rows: Sequence[tuple[str, float, float, float]]) -> str:
    """Draw differences (name, value, low, high) with their intervals, about a line at zero."""
    bounds = [abs(v) for row in rows for v in row[1:] if not math.isnan(v)]
    most = max(bounds, default=0) or 0.01
    parts = [f'<path class="axis" d="M{_FOREST_ZERO} 0V{len(rows) * _FOREST_STEP}"/>']
    parts += [_difference(i, row, most) for i, row in enumerate(rows)]
    return _svg(2 * _FOREST_ZERO, len(rows) * _FOREST_STEP + 4, parts, "forest", fixed=True)


def _difference(i: int, row: tuple[str, float, float, float], most: float | int) -> str:
    name, *values = row
    value, low, high = (_FOREST_ZERO + _FOREST_REACH * v / most for v in values)
    y = i * _FOREST_STEP + _FOREST_STEP / 2
    colour = "green" if values[1] > 0 else "red" if values[2] < 0 else "grey"
    title = f"<title>{escape(name)} {signed(values[0])}</title>"
    style = f'stroke="var(--{colour})" stroke-width="3" opacity=".5"'
    return (
        f'<text x="112" y="{y + 4}" text-anchor="end">{_short(name, 15)}</text>'
        + (f'<path d="M{low:.1f} {y}H{high:.1f}" {style}/>' if not math.isnan(low) else "")
        + f'<circle cx="{value:.1f}" cy="{y}" r="5" fill="var(--{colour})">{title}</circle>'
        + f'<text x="{2 * _FOREST_ZERO}" y="{y + 4}" text-anchor="end">{signed(values[0])}</text>'
    )


def _axes(x: str, y: str) -> str:
    parts = []
    for tick in (0, 0.25, 0.5, 0.75, 1):
        (left, up), (right, _) = _at(0, tick), _at(1, tick)
        across, floor = _at(tick, 0)
        parts.append(f'<path class="axis" d="M{left} {up:.1f}H{right}M{across:.1f} {floor}V{_TOP}"/>')
        parts.append(f'<text x="{left - 6}" y="{up + 4:.1f}" text-anchor="end">{100 * tick:.0f}</text>')
        parts.append(f'<text x="{across:.1f}" y="{floor + 15}" text-anchor="middle">{tick:g}</text>')
    turned = f'transform="translate(11 {_HEIGHT / 2 - 10}) rotate(-90)"'
    parts.append(
        f'<text x="{(_WIDTH + _LEFT) / 2}" y="{_HEIGHT - 4}" text-anchor="middle">{escape(x)}</text>'
        f'<text {turned} text-anchor="middle">{escape(y)}, %</text>'
    )
    return "".join(parts)


def _at(x: float | int, y: float | int) -> tuple[float, float]:
    across, up = x * (_WIDTH - _LEFT - 10), (1 - y) * (_HEIGHT - _TOP - _BOTTOM)
    return float(_LEFT + across), float(_TOP + up)


def _path(xs: Float64[np.ndarray, " n"], ys: Float64[np.ndarray, " n"]) -> str:
    steps, drawing = [], False
    for x, y in zip(xs, ys, strict=True):
        if math.isnan(y):
            drawing = False
            continue
        across, up = _at(float(x), float(y))
        steps.append(f"{'L' if drawing else 'M'}{across:.1f} {up:.1f}")
        drawing = True
    return "".join(steps)


def _svg(
    width: float | int, height: float | int, parts: Sequence[str], kind: str, *, fixed: bool = False
) -> str:
    size = f'width="{width:.0f}"' if fixed else 'width="100%"'
    return f'<svg class="{kind}" {size} viewBox="0 0 {width:.0f} {height:.0f}">{"".join(parts)}</svg>'


def _short(name: str, most: int = 22) -> str:
    return escape(name if len(name) <= most else name[: most - 1] + "…")
