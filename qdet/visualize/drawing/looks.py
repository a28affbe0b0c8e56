"""A picture of what a detector looked at: a row per query, a panel per stage.

N queries   S stages
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, UInt8

from qdet.visualize.drawing.colours import KINDS, MAGMA, ORANGE, VIRIDIS, WHITE, Colour, colours_at, ramp
from qdet.visualize.drawing.page import FAINT, Row, Sample, Scale, lay_out
from qdet.visualize.drawing.panel import Panel
from qdet.visualize.looking.attention import AttentionMaps
from qdet.visualize.looking.gaussians import Gaussians
from qdet.visualize.looking.look import Look
from qdet.visualize.looking.points import SampledPoints
from qdet.visualize.looking.regions import Regions

BEFORE, AFTER = WHITE, ORANGE
"""Of a stage's boxes."""
ON_HEAT = WHITE
"""Of boxes on a heat map, whose own colours have no white."""
GREY, DARK = 0.75, 0.35
"""How much colour and light are taken from the image below."""
ACROSS = 4
"""Panels in a row where each is a query."""
LOWEST = 0.2
"""Where the colours of levels begin on their scale: what is below is too dark for a dimmed image."""


@dataclass(frozen=True)
class Style:
    """How a picture is drawn."""

    names: Sequence[str]
    """Of the classes, by label."""
    size: int = 320
    """Longer side of a panel in pixels."""
    title: str = ""


def draw_look(
    image: UInt8[np.ndarray, "H W 3"], seen: Look, queries: Sequence[int], style: Style
) -> UInt8[np.ndarray, "h w 3"]:
    """Draw what the chosen queries look at in `image`, the original that coordinates are of."""
    if seen.what == "stages":
        return _draw_stages(image, seen, queries, style)
    stages = range(len(seen.seen))
    rows = [
        Row(tuple(_panel(image, seen, s, query, style) for s in stages), _caption(seen, query, style))
        for query in queries
    ]
    rows[0] = replace(rows[0], heads=tuple(f"stage {s + 1}" for s in stages))
    return lay_out(rows, title=style.title, legend=_legend(seen))


def _caption(seen: Look, query: int, style: Style) -> str:
    return f"{_name(seen, query, style)} {seen.boxes.scores[-1, query]:.2f}"


def _name(seen: Look, query: int, style: Style) -> str:
    return style.names[int(seen.boxes.labels[-1, query])]


def _panel(
    image: UInt8[np.ndarray, "H W 3"], seen: Look, stage: int, query: int, style: Style
) -> UInt8[np.ndarray, "h w 3"]:
    what = seen.seen[stage]
    panel = Panel(image, size=style.size, grey=GREY, dark=DARK)
    after = seen.boxes.boxes_xyxy[stage, query]
    if isinstance(what, SampledPoints):
        _draw_points(panel, what, query, after)
    elif isinstance(what, AttentionMaps):
        _draw_heat(panel, what.on_image(query), least=0.25, most=0.75)
        panel.box(after, ON_HEAT)
    elif isinstance(what, Gaussians):
        _draw_gaussians(panel, what, query)
        panel.box(after, ON_HEAT)
    else:
        _draw_region(panel, what, query)
        panel.box(after, AFTER)
    return panel.finish()


def _draw_points(panel: Panel, points: SampledPoints, query: int, after: Float[np.ndarray, "4"]) -> None:
    around = points.around_xyxy[query]
    if not points.around_points:
        panel.box(around, BEFORE, width=1.4, dashed=True)
    panel.box(after, AFTER)
    weights = points.weights[query]
    order = np.argsort(weights, kind="stable")  # those that count most are drawn on top
    levels = _level_positions(points.log2_stride[query], points.strides)
    inks = colours_at(LOWEST + (1 - LOWEST) * levels, VIRIDIS)
    radii = max(panel.width, panel.height) / 120 * np.sqrt(weights / weights.mean()).clip(0.35, 2.2)
    panel.dots(points.xy[query][order], [tuple(ink) for ink in inks[order].tolist()], radii[order])
    if points.around_points:
        panel.cross(around[:2], BEFORE)


def _level_positions(log2_stride: Float[np.ndarray, "P"], strides: Sequence[int]) -> Float[np.ndarray, "P"]:
    """Place levels on a scale from the finest, 0, to the coarsest, 1."""
    low, high = np.log2(min(strides)), np.log2(max(strides))
    return (log2_stride - low) / max(high - low, 1e-9)


def _draw_heat(panel: Panel, heat: Float[np.ndarray, "h w"], *, least: float, most: float) -> None:
    """Cover the image by a heat map that is `least` opaque at 0 and `most` at its highest."""
    shares = heat / max(heat.max(), 1e-12)
    panel.cover(colours_at(shares, MAGMA), least + (most - least) * shares)


def _draw_gaussians(panel: Panel, gaussians: Gaussians, query: int) -> None:
    """Draw the mean of all Gaussians and their centres; of one map also the outline of each head's."""
    _draw_heat(panel, gaussians.at(query, panel.pixels_xy).mean((0, 1)), least=0.2, most=0.6)
    halves, one_map = gaussians.half_widths(query), len(gaussians.strides) == 1
    for level, heads in enumerate(gaussians.centers_xy[query]):
        for head, center in enumerate(heads):
            ink = KINDS[(head if one_map else level) % len(KINDS)]
            if one_map:
                panel.ellipse(center, halves[level, head], ink, width=1.6)
            panel.dots(center[None], [ink], [3.4])


def _draw_region(panel: Panel, regions: Regions, query: int) -> None:
    left, top, right, bottom = box = regions.boxes_xyxy[query]
    ink = ramp(len(regions.strides), low=LOWEST)[regions.levels[query]]
    for share in np.linspace(0, 1, regions.side + 1)[1:-1]:
        x, y = left + share * (right - left), top + share * (bottom - top)
        panel.line(np.array(((x, top), (x, bottom))), ink, width=0.7, edged=False)
        panel.line(np.array(((left, y), (right, y))), ink, width=0.7, edged=False)
    panel.box(box, ink, width=2.0)


def _draw_stages(
    image: UInt8[np.ndarray, "H W 3"], seen: Look, queries: Sequence[int], style: Style
) -> UInt8[np.ndarray, "h w 3"]:
    boxes, inks = seen.boxes, ramp(seen.boxes.stages, low=0.3)
    panels = [_stages_panel(image, seen, query, inks, style) for query in queries]
    heads = [f"{_name(seen, q, style)} {boxes.scores[0, q]:.2f} → {boxes.scores[-1, q]:.2f}" for q in queries]
    rows = [
        Row(tuple(panels[i : i + ACROSS]), heads=tuple(heads[i : i + ACROSS]))
        for i in range(0, len(panels), ACROSS)
    ]
    start = [] if seen.start_xyxy is None else [Sample("start", BEFORE, "dashes")]
    legend = [*start, *(Sample(f"stage {stage + 1}", ink) for stage, ink in enumerate(inks))]
    return lay_out(rows, title=style.title, legend=legend)


def _stages_panel(
    image: UInt8[np.ndarray, "H W 3"], seen: Look, query: int, inks: Sequence[Colour], style: Style
) -> UInt8[np.ndarray, "h w 3"]:
    """Draw a query's boxes, later ones thinner and on top, so that equal boxes are all seen."""
    panel = Panel(image, size=style.size, grey=GREY, dark=DARK)
    own = seen.boxes.boxes_xyxy[:, query]
    if seen.start_xyxy is not None:
        panel.box(seen.start_xyxy[query], BEFORE, width=1.4, dashed=True)
        own = np.concatenate((seen.start_xyxy[query][None], own))
    centers = (own[:, :2] + own[:, 2:]) / 2
    last = seen.boxes.boxes_xyxy[:, query]
    for box, ink, width in zip(last, inks, np.linspace(4.5, 1.8, len(inks)), strict=True):
        panel.box(box, ink, width=width)
    panel.line(centers, WHITE, width=1.0)
    panel.dots(centers[-len(inks) :], inks, np.linspace(4.2, 2.4, len(inks)))
    return panel.finish()


def _legend(seen: Look) -> list[Sample | Scale]:
    first = seen.seen[0]
    after = Sample("box that the stage predicts", AFTER)
    if isinstance(first, SampledPoints):
        return [*_point_legend([s for s in seen.seen if isinstance(s, SampledPoints)]), after]
    if isinstance(first, AttentionMaps):
        return [Scale("attention", MAGMA, ((0.0, "0"), (1.0, "most"))), replace(after, ink=ON_HEAT)]
    if isinstance(first, Gaussians):
        return [*_gaussian_legend(first), replace(after, ink=ON_HEAT)]
    return [_level_scale("region, by the stride of its level", first.strides), after]


def _point_legend(stages: Sequence[SampledPoints]) -> list[Sample | Scale]:
    legend: list[Sample | Scale] = [_level_scale("point, by the stride of its level", stages[0].strides)]
    if np.ptp(stages[0].weights) > 0:
        legend.append(Sample("larger: of more weight", FAINT, "dot"))
    if any(stage.around_points for stage in stages):
        legend.append(Sample("reference point", BEFORE, "cross"))
    if not all(stage.around_points for stage in stages):
        legend.append(Sample("box that it starts from", BEFORE, "dashes"))
    return legend


def _gaussian_legend(gaussians: Gaussians) -> list[Sample | Scale]:
    if len(gaussians.strides) == 1:
        texts = [f"head {head + 1}" for head in range(gaussians.centers_xy.shape[2])]
        texts[0] += ", to half its height"
        samples = [Sample(text, KINDS[i % len(KINDS)]) for i, text in enumerate(texts)]
    else:
        texts = [f"centres on map {i + 1}, stride {stride}" for i, stride in enumerate(gaussians.strides)]
        samples = [Sample(text, KINDS[i % len(KINDS)], "dot") for i, text in enumerate(texts)]
    return [Scale("mean of all", MAGMA, ((0.0, "0"), (1.0, "most"))), *samples]


def _level_scale(text: str, strides: Sequence[int]) -> Scale:
    positions = _level_positions(np.log2(strides), strides)
    colours = colours_at(LOWEST + (1 - LOWEST) * np.linspace(0, 1, 32), VIRIDIS).astype(np.float64)
    return Scale(text, colours, tuple((float(at), str(s)) for at, s in zip(positions, strides, strict=True)))
