"""The part that learns: the demo, then the race of all detectors, each trained as its job says."""

import time
from functools import partial
from pathlib import Path

from benchmarks.convergence import JOBS, demo_job, measure
from benchmarks.gpu.bench import Bench, Lines, Section
from qdet.config import override
from qdet.errors import QdetError

STEPS = 625
"""Of the demo and of every detector of the race."""


def learn_sections(data: Path) -> tuple[Section, ...]:
    """Return the sections of this part, with their shares of nine minutes.

    Raises:
        SystemExit: `data` has no shards.
    """
    if not (data / "train").is_dir():
        raise SystemExit(f"{data}: no shards; `make demo` makes them, or give --data")
    return (
        Section("demo", 90, partial(train, jobs=("adamixer_swin",), data=data)),
        Section("race", 450, partial(train, jobs=JOBS, data=data)),
    )


def train(bench: Bench, *, jobs: tuple[str, ...], data: Path) -> Lines:
    """Train one job after the other; each line is its curve of AP."""
    accelerator = "gpu" if bench.scale.device.type == "cuda" else "cpu"
    steps = STEPS if accelerator == "gpu" else bench.scale.learned
    for name in jobs:
        job = override(demo_job(name, data, steps, bench.seed), {"train.accelerator": accelerator})
        begin = time.perf_counter()
        try:
            found = measure(job)
        except QdetError as error:
            yield {"name": name, "failed": str(error)}
            continue
        seconds = time.perf_counter() - begin
        yield {
            "name": name,
            "steps": steps,
            "AP": found["AP"][-1],
            "AP50": found["AP50"][-1],
            "seconds": seconds,
            "images_per_s": steps * job.train.batch_size / seconds,
            "at": found["at"],
            "curve": found["AP"],
        }
