"""Memory, open files and threads of a process over thousands of training steps.

    OMP_NUM_THREADS=1 MALLOC_ARENA_MAX=1 python -m benchmarks.steadiness --steps 4000

One process trains the small job of `python -m qdet chaos` on two images a step, evaluates every eighth epoch,
computes every tenth gradient twice, writes a checkpoint every 50 steps and logs every step to a database of
MLflow. It is sampled every 50 steps. The slope is the median of those between all pairs of samples (Theil and
Sen) after the first 1,000 steps, or after the first half of fewer: until then buffers grow to the largest
batch. All threads share one heap: else each that begins may take over the heap of one that has ended, and
what both have left there counts as growth.
"""

import ctypes
import gc
import json
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import psutil
import tyro
from rich.console import Console

from qdet.config import override
from qdet.launching.chaos.job import job as small_job
from qdet.launching.chaos.run import prepare
from qdet.tracking import MLflowTracker
from qdet.training.loop import train
from qdet.training.reporting import LocalReporter, Progress, Run

EVERY = 50
"""Steps between samples."""
SETTLED = 1000
"""Steps after which nothing may grow any more."""


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """How long to measure."""

    steps: int = 3000
    """Training steps."""
    samples: Path | None = None
    """JSON file for all samples, replaced if it is there."""


@dataclass
class Samples:
    """Resources of this process, by step.

    Memory is what the process has for itself and uses: freed memory that the C library keeps for later is
    given back first, and files that are mapped, of which the system keeps what it likes, do not count.
    """

    steps: list[int] = field(default_factory=list)
    megabytes: list[float] = field(default_factory=list)
    files: list[float] = field(default_factory=list)
    threads: list[float] = field(default_factory=list)

    def record(self, step: int) -> None:
        """Record the resources at `step`."""
        process = psutil.Process()
        self.steps.append(step)
        self.megabytes.append(_anonymous_bytes() / 1e6)
        self.files.append(process.num_fds())
        self.threads.append(process.num_threads())


def _anonymous_bytes() -> int:
    """Return the resident memory that belongs to no file, without what the C library could give back."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    found = re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())
    if found is None:
        raise SystemExit("the system does not say how much memory belongs to no file; Linux does")
    return int(found[1]) * 1024


class _SamplingReporter(LocalReporter):
    def __init__(self, samples: Samples) -> None:
        super().__init__()
        self._samples = samples

    def progress(self, progress: Progress) -> None:
        if progress.step % EVERY == 0:
            self._samples.record(progress.step)

    def evaluated(self, step: int, metrics: Mapping[str, float]) -> None:
        """Ignore the metrics."""


def slope(steps: Sequence[float], values: Sequence[float]) -> float:
    """Return by how much values grow in 1,000 steps, after the first ones."""
    first = min(SETTLED, max(steps) // 2)
    late = np.array(steps) > first
    x, y = np.array(steps)[late], np.array(values)[late]
    one, other = np.triu_indices(len(x), 1)
    return float(np.median((y[other] - y[one]) / (x[other] - x[one]))) * 1000


def sample(measurement: Measurement, folder: Path) -> Samples:
    """Train in `folder`, and return the samples."""
    samples = Samples()
    prepare(folder / "shards")
    job = override(
        small_job,
        {
            "data.train": str(folder / "shards" / "data" / "train"),
            "data.val": str(folder / "shards" / "data" / "val"),
            "train.steps": measurement.steps,
            "train.workers": 1,
            "train.batch_size": 2,
            "train.log_every": 1,
            "train.checkpoint_every": EVERY,
            "train.eval_every": 8,
            "train.verify_every": 10,
            "data.augment.sizes": (32, 48),
            "data.augment.crop": False,
        },
    )
    tracker = MLflowTracker.open(
        folder / "spool",
        experiment="steadiness",
        run_name="steady",
        tracking_uri=f"sqlite:///{folder / 'mlflow.db'}",
        system_metrics=10,
    )
    run = Run("steady", str(folder / "store"))
    train(job, run=run, reporter=_SamplingReporter(samples), tracker=tracker)
    if not tracker.close("FINISHED", wait=120):
        raise SystemExit("MLflow did not take all points: what was measured is not what was meant")
    return samples


def measure(measurement: Measurement) -> None:
    """Train, and print the range and slope of each resource."""
    with tempfile.TemporaryDirectory(prefix="qdet-steadiness-") as name:
        samples = sample(measurement, Path(name))
    if measurement.samples is not None:
        measurement.samples.write_text(json.dumps(asdict(samples)))
    console = Console(highlight=False)
    first = min(SETTLED, measurement.steps // 2)
    console.print(f"{measurement.steps} steps; samples after the first {first}:")
    for name in ("megabytes", "files", "threads"):
        values = getattr(samples, name)
        late = [value for step, value in zip(samples.steps, values, strict=True) if step > first]
        grown = slope(samples.steps, values)
        console.print(f"{name}: {min(late):.1f} to {max(late):.1f}, slope {grown:+.2f} per 1,000 steps")


if __name__ == "__main__":
    measure(tyro.cli(Measurement, description=__doc__))
