"""AP of what `qdet certify` has trained over steps, compute and CPU time, with bands over seeds.

    qdet certify race               # hours on two cores; finished rows are in docs/certificates/race.json
    python -m benchmarks.race       # times a step of each row by turns, draws docs/race.png, prints a table

A band holds the mean over seeds at 95 %, as the intervals of the certificate do. Compute counts a backward
pass as two forward passes. CPU time is that of a step on one thread (forward pass, loss, backward pass,
update), the median of rounds by turns, times the steps before an evaluation: no other work of a training
counts.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import tyro

from benchmarks.machine import describe_machine
from benchmarks.timing import summarize, take_turns
from qdet.data.denoising.draw import NoiseSource, pack
from qdet.errors import ConfigError
from qdet.job import Job
from qdet.launching.commands.certification import slug
from qdet.layers.denoising.apply import denoise
from qdet.types import Targets
from qdet.zoo.certificates.intervals import Interval, bootstrap
from qdet.zoo.certificates.results import Curve, Measured, Results
from qdet.zoo.certificates.tables import find

DOCS = Path(__file__).parents[1] / "docs"
CLASSES = 6
"""Of the demo's images."""
OBJECTS = 4
"""In each image, about as many as the demo's have."""


class Line(NamedTuple):
    """One row of the race: mean and interval of AP at each evaluation, and what a step costs."""

    name: str
    steps: tuple[int, ...]
    ap: tuple[Interval, ...]
    macs: float
    """Multiply-accumulates of a step, forward and backward."""
    cpu: float
    """Seconds of a step."""


def main(
    *,
    table: str = "race",
    results: Path = DOCS / "certificates",
    rounds: int = 5,
    picture: Path | None = None,
) -> None:
    """Time a step of each finished row, draw the curves and print the table.

    Args:
        table: Table of `qdet certify`.
        results: Folder of its results.
        rounds: Steps of each row, after two for warm-up.
        picture: PNG to draw; by default docs/TABLE.png.
    """
    torch.set_num_threads(1)
    path = results / f"{slug(table)}.json"
    try:
        claim = find(table)
        if not path.is_file():
            raise ConfigError(f"{path}: nothing of {table} was trained yet; qdet certify {table} does")
        found = Results.read(path)
    except ConfigError as error:
        raise SystemExit(str(error)) from None
    images = int(found.scale["images_per_step"])
    jobs = {row.name: row.small() for row in claim.rows if row.name in found.rows}
    seconds = time_steps(jobs, images, rounds)
    lines = [line_of(name, found.rows[name], images, seconds[name]) for name in jobs]
    print(json.dumps(describe_machine()))
    print(format_table(lines))
    draw(lines, picture or DOCS / f"{slug(table)}.png")


def time_steps(jobs: Mapping[str, Job], images: int, rounds: int) -> dict[str, float]:
    """Return the CPU seconds of a step of each job, the jobs by turns."""
    tasks = {name: make_step(job, images) for name, job in jobs.items()}
    taken = take_turns(tasks, torch.device("cpu"), rounds=rounds, warmup=2)
    return {name: summarize(milliseconds)["ms"] / 1e3 for name, milliseconds in taken.items()}


def make_step(job: Job, images: int) -> Callable[[], float]:
    """Return what makes a step of a job on random images and objects, and gives its loss."""
    torch.manual_seed(0)
    side = job.data.augment.max_size
    detector, criterion = job.detector.build(CLASSES).train(), job.loss.build(CLASSES)
    optimizer = torch.optim.AdamW(detector.parameters(), lr=1e-6, fused=True)
    pixels = torch.randint(0, 256, (images, 3, side, side), dtype=torch.uint8)
    sizes = torch.tensor([[side, side]] * images)
    corners = torch.rand(images * OBJECTS, 2) * side / 2
    labels = torch.randint(0, CLASSES, (images * OBJECTS,))
    targets = Targets(torch.cat((corners, corners + side / 3), 1), labels, (OBJECTS,) * images)
    extra, truth = [], None
    if detector.denoising.kind != "none":
        source = NoiseSource(config=detector.denoising, seed=0, epoch=0)
        noise = pack([source.draw(image, OBJECTS) for image in range(images)])
        queries, truth = denoise(detector.denoising, targets, noise, sizes, CLASSES)
        extra = [] if queries is None else [queries]

    def step() -> float:
        stages = detector(pixels, sizes, *extra)
        total = criterion(stages, targets, sizes, normalizer=float(len(labels)), truth=truth).total
        total.backward()
        optimizer.step()
        optimizer.zero_grad()
        return float(total.detach())

    return step


def line_of(name: str, row: Measured, images: int, seconds: float) -> Line:
    """Return the line of a row whose step takes so many seconds, of seeds that were evaluated alike."""
    curves = list(row.seeds.values())
    at = curves[0].steps
    alike: Sequence[Curve] = [curve for curve in curves if curve.steps == at]
    ap = tuple(bootstrap([curve.ap[i] for curve in alike]) for i in range(len(at)))
    return Line(name, at, ap, 3.0 * images * row.macs, seconds)


def at_equal(lines: Sequence[Line], cost: Callable[[Line], float]) -> dict[str, float]:
    """Return each line's AP where it has cost as much as the cheapest one in all, interpolated."""
    limit = min(cost(line) * line.steps[-1] for line in lines)
    means = {line.name: [0.0, *(interval.mean for interval in line.ap)] for line in lines}
    return {
        line.name: float(np.interp(limit / cost(line), [0, *line.steps], means[line.name])) for line in lines
    }


def format_table(lines: Sequence[Line]) -> str:
    """Return a Markdown table, the highest AP first."""
    compute, cpu = at_equal(lines, lambda line: line.macs), at_equal(lines, lambda line: line.cpu)
    rows = [
        "| row | AP at the end | at equal compute | at equal CPU time | GMACs a step | CPU time a step, ms |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for line in sorted(lines, key=lambda line: -line.ap[-1].mean):
        shown = f"{line.ap[-1]} | {compute[line.name]:.3f} | {cpu[line.name]:.3f}"
        rows.append(f"| {line.name} | {shown} | {line.macs / 1e9:.1f} | {1e3 * line.cpu:.0f} |")
    return "\n".join(rows)


def draw(lines: Sequence[Line], path: Path) -> None:
    """Draw AP over steps, compute and CPU time into `path`."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 3, figsize=(14, 4.6), sharey=True, layout="constrained")
    colors = pyplot.get_cmap("tab20").colors  # type: ignore[attr-defined]
    for color, line in zip(colors, lines, strict=False):
        scales = (1.0, line.macs / 1e12, line.cpu / 60)
        for plot, scale in zip(axes, scales, strict=True):
            at = [scale * step for step in line.steps]
            plot.plot(at, [point.mean for point in line.ap], color=color, label=line.name)
            if math.isfinite(line.ap[-1].low):  # one seed has no band
                low, high = [point.low for point in line.ap], [point.high for point in line.ap]
                plot.fill_between(at, low, high, color=color, alpha=0.2, linewidth=0)
    names = ("optimizer steps", "trillions of multiply-accumulates", "minutes of CPU time, one thread")
    for plot, name in zip(axes, names, strict=True):
        plot.set_xlabel(name)
        plot.grid(alpha=0.3)
        plot.set_xlim(left=0)
        plot.set_ylim(bottom=0)
    axes[0].set_ylabel("AP on the held-out images")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", fontsize=8, frameon=False)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


if __name__ == "__main__":
    tyro.cli(main)
