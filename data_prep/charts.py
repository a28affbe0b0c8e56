"""Stacked bar charts as pixels, drawn by matplotlib."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8

from qdet.visualize.boxes import FAINT, INK, PAPER, Colour, colour

_DPI, _HEIGHT = 100, 330  # dots per inch; pixels per chart


@dataclass(frozen=True)
class Bars:
    """One chart."""

    title: str
    names: Sequence[str]
    """Labels below the bars."""
    values: Sequence[int]


def draw_bar_charts(charts: Sequence[Bars], *, width: int) -> UInt8[np.ndarray, "H W 3"]:
    """Stack charts on one page `width` pixels wide; return RGB."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(width / _DPI, _HEIGHT * len(charts) / _DPI), dpi=_DPI, layout="constrained")
    figure.set_facecolor(_scale_to_unit(PAPER))
    canvas = FigureCanvasAgg(figure)
    for chart, axes in zip(charts, figure.subplots(len(charts), squeeze=False)[:, 0], strict=True):
        places = np.arange(len(chart.values))
        axes.bar(places, chart.values, width=0.8, color=_scale_to_unit(colour(0)))
        axes.set_title(chart.title, loc="left", color=_scale_to_unit(INK), fontsize=11)
        axes.yaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        crowded = len(chart.names) * max(map(len, chart.names)) * 8 > width
        turn, align = (60, "right") if crowded else (0, "center")
        axes.set_xticks(places, chart.names, rotation=turn, ha=align, parse_math=False)
        axes.tick_params(labelsize=8, colors=_scale_to_unit(FAINT), length=0)
        axes.set_facecolor(_scale_to_unit(PAPER))
        axes.grid(axis="y", linewidth=0.5, alpha=0.4)
        axes.set_axisbelow(True)
        axes.margins(x=0.01)
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[:, :width, :3].copy()


def _scale_to_unit(ink: Colour) -> tuple[float, float, float]:
    red, green, blue = ink
    return red / 255, green / 255, blue / 255
