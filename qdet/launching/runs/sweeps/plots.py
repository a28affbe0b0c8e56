"""Pictures of a sweep: the metric by epoch, what each trial tried, and which settings matter."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qdet.job import Sweep
from qdet.launching.runs.sweeps.curves import Curve, compared_epoch
from qdet.launching.runs.sweeps.importance import rank_settings
from qdet.launching.runs.sweeps.table import short_path, trial_title
from qdet.launching.runs.typed import show_value
from qdet.search import LogUniform, Space, Uniform, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAMES = BY_EPOCH, PARALLEL, IMPORTANCE = "metric_by_epoch.png", "parallel_coordinates.png", "importance.png"
COLOURS = "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"
"""Okabe and Ito's, which any colour vision tells apart, of the best trials in turn."""
REST = "#bbbbbb"
"""Colour of all other trials."""
TICKS = 9
"""Most options that are named at an axis."""
LONGEST = 44
"""Characters of a name that are shown."""
NONE_AT = -0.12
"""Where the lines of trials pass in which a setting was not searched, below its axis from 0 to 1."""


def draw_plots(curves: Sequence[Curve], sweep: Sweep, to: Path) -> list[Path]:
    """Write the three pictures of a sweep into a folder and return their paths; none without a curve.

    Args:
        curves: Of the trials that were evaluated.
        sweep: What was searched.
        to: An existing folder.
    """
    if not curves:
        return []
    sign = -1 if sweep.mode == "max" else 1
    ranked = sorted(curves, key=lambda one: sign * one.last)
    for name, draw in ((BY_EPOCH, _draw_curves), (PARALLEL, _draw_parallel), (IMPORTANCE, _draw_importance)):
        with _figure() as figure:
            draw(figure, ranked, sweep)
            figure.savefig(to / name)
    return [to / BY_EPOCH, to / PARALLEL, to / IMPORTANCE]


@contextmanager
def _figure() -> Iterator["Figure"]:
    """Yield a figure that needs no screen, in which names are text and never formulas."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(
            {"text.parse_math": False, "axes.spines.top": False, "axes.spines.right": False}
        )
        yield Figure(figsize=(9, 4.2), dpi=110, layout="constrained")


def _draw_curves(figure: "Figure", ranked: Sequence[Curve], sweep: Sweep) -> None:
    """Draw a line for every trial, the best ones coloured and named."""
    from matplotlib.ticker import MaxNLocator

    axes = figure.subplots()
    best = list(zip(ranked, COLOURS, strict=False))
    coloured = [(one, colour, 3) for one, colour in best]
    for one, colour, order in [*((other, REST, 2) for other in ranked[len(best) :]), *reversed(coloured)]:
        epochs, values = list(one.values), list(one.values.values())
        axes.plot(epochs, values, color=colour, marker="o", markersize=3, zorder=order)
        if one.state != "finished":
            axes.plot(epochs[-1:], values[-1:], color=colour, marker="X", markersize=9, zorder=order)
    lines = [axes.plot([], [], color=colour, marker="o", markersize=3)[0] for _, colour in best]
    names = [_shorten(trial_title(one.trial, one.settings)) for one, _ in best]
    if len(ranked) > len(best):
        lines += axes.plot([], [], color=REST, marker="o", markersize=3)
        names.append(f"{len(ranked) - len(best)} more")
    if any(one.state != "finished" for one in ranked):
        lines += axes.plot([], [], color="#555555", marker="X", markersize=9, linestyle="none")
        names.append("ended before its last epoch")
    figure.legend(lines, names, loc="outside right upper", frameon=False, fontsize=9)
    axes.set_xlabel("epoch")
    axes.set_ylabel(sweep.metric)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(axis="y", color="#eeeeee")
    axes.set_title(f"{sweep.metric} by epoch of {_count(ranked)}", loc="left")


def _draw_parallel(figure: "Figure", ranked: Sequence[Curve], sweep: Sweep) -> None:
    """Draw an axis for every setting and one for the metric, and a line for every trial, coloured by that."""
    import matplotlib

    axes, colours = figure.subplots(), matplotlib.colormaps["viridis"]
    axes.axis("off")
    last = np.array([one.last for one in ranked])
    low, high = float(last.min()), float(last.max())
    heights = (last - low) / (high - low) if high > low else np.full(len(ranked), 0.5)
    goodness = heights if sweep.mode == "max" or high == low else 1 - heights
    paths = list(sweep.space)
    for i in reversed(range(len(ranked))):
        settings = ranked[i].settings
        at = [_place(sweep.space[p], settings[p]) if p in settings else NONE_AT for p in paths]
        width = 2.6 if i == 0 else 1.3
        axes.plot(
            range(len(paths) + 1), [*at, heights[i]], color=colours(0.95 * goodness[i]), linewidth=width
        )
    for i, path in enumerate(paths):
        _draw_axis(axes, i, _shorten(short_path(path, paths)), _name_ticks(sweep.space[path]))
        if any(path not in one.settings for one in ranked):
            axes.text(i - 0.03, NONE_AT, "not searched", ha="right", va="center", fontsize=9)
    _draw_axis(axes, len(paths), sweep.metric, [(0.0, f"{low:.4f}"), (1.0, f"{high:.4f}")])
    axes.set_xlim(-0.3, len(paths) + 0.3)
    axes.set_title(f"What {_count(ranked)} tried, and their last {sweep.metric}", loc="left", pad=22)


def _draw_axis(axes: "Axes", at: int, name: str, ticks: Sequence[tuple[float, str]]) -> None:
    axes.plot([at, at], [0, 1], color="black", linewidth=1)
    axes.text(at, 1.06, name, ha="center", weight="bold")
    for height, text in ticks:
        axes.plot([at - 0.012, at + 0.012], [height, height], color="black", linewidth=1)
        behind = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.6}
        axes.text(
            at - 0.03, height, _shorten(text), ha="right", va="center", fontsize=9, bbox=behind, zorder=3
        )


def _place(space: Space, value: Any) -> float:
    """Return where a value is on its axis from 0 to 1: by logarithm, linearly, or by the order of options."""
    one = plain(space)
    if isinstance(one, LogUniform):
        return float(np.log(value / one.low) / np.log(one.high / one.low))
    if isinstance(one, Uniform):
        return (value - one.low) / (one.high - one.low)
    return (one.options.index(value) + 0.5) / len(one.options)


def _name_ticks(space: Space) -> list[tuple[float, str]]:
    one = plain(space)
    if isinstance(one, LogUniform | Uniform):
        return [(0.0, show_value(float(one.low))), (1.0, show_value(float(one.high)))]
    each = -(-len(one.options) // TICKS)
    named = one.options[::each]
    return [((i * each + 0.5) / len(one.options), show_value(option)) for i, option in enumerate(named)]


def _draw_importance(figure: "Figure", ranked: Sequence[Curve], sweep: Sweep) -> None:
    """Draw a bar for every setting: the share of the differences between trials that it explains."""
    figure.set_figheight(min(4.2, 1.2 + 0.45 * len(sweep.space)))
    axes = figure.subplots()
    found = rank_settings(ranked, sweep)
    for i, one in enumerate(found):
        share = one.share or 0.0
        axes.barh(i, share, color=COLOURS[0], height=0.6)
        few = f"too few trials to tell ({one.trials})"
        axes.text(share + 0.01, i, few if one.share is None else f"{share:.0%}", va="center")
    axes.set_yticks(range(len(found)), [_shorten(one.path) for one in found])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.12)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0%", "25%", "50%", "75%", "100%"])
    axes.set_xlabel("differences that it explains (adjusted R² of ranks)")
    epoch = compared_epoch(ranked)
    axes.set_title(
        f"What differences in {sweep.metric} come from: {_count(ranked)} after epoch {epoch}", loc="left"
    )


def _count(curves: Sequence[Curve]) -> str:
    return f"{len(curves)} trial{'s' if len(curves) != 1 else ''}"


def _shorten(name: str) -> str:
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 1].rstrip()}…"
