"""Everything that a GPU has to give, in one command.

    python -m benchmarks.gpu --minutes 9 --out results            # speed: results/gpu.jsonl and gpu.md
    python -m benchmarks.gpu --only step breakdown
    python -m benchmarks.gpu --compare before/gpu.jsonl           # refuses another card, or other sizes
    python -m benchmarks.gpu --part learn --data data/demo/shards  # trains the demo and the race

Needs torch and this repository; no Ray, DeepSpeed, webdataset or MLflow. What a section measures is written
at once, and a section that would take more than its share of the time is cut. Without a GPU everything runs
at tiny sizes, which shows that it works and nothing else.
"""

import sys
import time
import traceback
from pathlib import Path
from typing import Literal

import tyro

from benchmarks.gpu.bench import Bench, Section
from benchmarks.gpu.breakdown import measure_breakdown
from benchmarks.gpu.ceilings import measure_ceilings
from benchmarks.gpu.curves import measure_curves
from benchmarks.gpu.matching import measure_matching
from benchmarks.gpu.others import measure_others
from benchmarks.gpu.report import Report
from benchmarks.gpu.right import check_kernels
from benchmarks.gpu.scale import choose_scale
from benchmarks.gpu.shapes import measure_shapes
from benchmarks.gpu.speeds import measure_kernels
from benchmarks.gpu.staging import measure_staging
from benchmarks.gpu.steps import measure_steps
from benchmarks.gpu.training import learn_sections

SPEED = (
    Section("ceilings", 20, measure_ceilings),
    Section("right", 60, check_kernels),
    Section("kernels", 60, measure_kernels),
    Section("matching", 20, measure_matching),
    Section("step", 140, measure_steps),
    Section("breakdown", 40, measure_breakdown),
    Section("shapes", 50, measure_shapes),
    Section("others", 60, measure_others),
    Section("curves", 60, measure_curves),
    Section("staging", 20, measure_staging),
)


def main(
    *,
    minutes: float = 9.0,
    out: Path = Path("gpu_results"),
    part: Literal["speed", "learn"] = "speed",
    only: tuple[str, ...] = (),
    compare: Path | None = None,
    images: Path | None = None,
    data: Path = Path("data/demo/shards"),
    seed: int = 0,
) -> None:
    """Measure section by section.

    Args:
        minutes: Time for all of them; each has a share.
        out: Folder of the results.
        part: Speed, or what is learned: the demo and the race of all detectors.
        only: Sections to run.
        compare: `gpu.jsonl` of an earlier run, whose times are put beside these.
        images: Decoded images for the loss curves (`benchmarks.gpu.decoded`); by default drawn ones.
        data: Shards for the part that learns.
        seed: Of weights and batches.
    """
    sections = SPEED if part == "speed" else learn_sections(data)
    unknown = set(only) - {section.name for section in sections}
    if unknown:
        known = ", ".join(section.name for section in sections)
        raise SystemExit(f"--only {' '.join(sorted(unknown))}: there is no such section; there are {known}")
    if minutes <= 0:
        raise SystemExit(f"--minutes must be positive, got {minutes:g}")
    bench = Bench(choose_scale(), seed, images)
    report = Report(out, bench.scale, seed)
    if compare is not None:
        report.refuse_unlike(compare)
    chosen = [section for section in sections if not only or section.name in only]
    share = 60 * minutes / sum(section.seconds for section in chosen)
    failed = [section.name for section in chosen if not run(section, bench, report, share * section.seconds)]
    report.finish(compare)
    if bench.wrong or failed:
        wrong = ", ".join(sorted(bench.wrong)) or "none"
        raise SystemExit(f"wrong kernels: {wrong}; failed sections: {', '.join(failed) or 'none'}")


def run(section: Section, bench: Bench, report: Report, seconds: float) -> bool:
    """Record what a section measures in its time; return False where it raised."""
    begin = time.monotonic()
    lines = section.measure(bench)
    try:
        for line in lines:
            report.add(section.name, line)
            if time.monotonic() - begin > seconds:
                report.add(section.name, {"name": f"cut after {seconds:.0f} s"})
                break
    except Exception as error:  # the next section may still run
        traceback.print_exc(file=sys.stderr)
        report.add(section.name, {"name": "failed", "why": f"{type(error).__name__}: {error}"[:1000]})
        return False
    return True


if __name__ == "__main__":
    tyro.cli(main)
