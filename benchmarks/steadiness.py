"""Memory, open files and threads of a process over 3,000 training steps.

    OMP_NUM_THREADS=1 python -m benchmarks.steadiness --steps 3000

One process trains the small job of `python -m qdet chaos`, with augmentation, evaluation every other epoch
and a checkpoint every 50 steps, and is sampled every 50. The slope is that of a least-squares line through
the second half of the samples: in the first, buffers grow to the largest batch.
"""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
import tyro
from rich.console import Console

from qdet.config import override
from qdet.launching.chaos.job import job as small_job
from qdet.launching.chaos.run import prepare
from qdet.tracking import NullTracker
from qdet.training.loop import train
from qdet.training.reporting import LocalReporter, Progress, Run

EVERY = 50
"""Steps between samples."""


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """How long to measure."""

    steps: int = 3000
    """Training steps."""


@dataclass
class Samples:
    """Resources of this process, by step; memory is resident."""

    steps: list[int] = field(default_factory=list)
    megabytes: list[float] = field(default_factory=list)
    files: list[float] = field(default_factory=list)
    threads: list[float] = field(default_factory=list)

    def record(self, step: int) -> None:
        """Record the resources at `step`."""
        process = psutil.Process()
        self.steps.append(step)
        self.megabytes.append(process.memory_info().rss / 1e6)
        self.files.append(process.num_fds())
        self.threads.append(process.num_threads())


class _SamplingReporter(LocalReporter):
    def __init__(self, samples: Samples) -> None:
        super().__init__()
        self._samples = samples

    def progress(self, progress: Progress) -> None:
        self._samples.record(progress.step)

    def evaluated(self, step: int, metrics: Mapping[str, float]) -> None:
        """Ignore the metrics."""


def measure(measurement: Measurement) -> None:
    """Train, and print the range and slope of each resource."""
    samples = Samples()
    with tempfile.TemporaryDirectory(prefix="qdet-steadiness-") as name:
        folder = Path(name)
        prepare(folder / "shards")
        job = override(
            small_job,
            {
                "data.train": str(folder / "shards" / "data" / "train"),
                "data.val": str(folder / "shards" / "data" / "val"),
                "train.steps": measurement.steps,
                "train.workers": 1,
                "train.log_every": EVERY,
                "train.checkpoint_every": EVERY,
            },
        )
        train(
            job,
            run=Run("steady", str(folder / "store")),
            reporter=_SamplingReporter(samples),
            tracker=NullTracker(),
        )
    console = Console(highlight=False)
    half = len(samples.steps) // 2
    console.print(f"{measurement.steps} steps, {len(samples.steps)} samples, the second half of them:")
    for name in ("megabytes", "files", "threads"):
        values = np.array(getattr(samples, name))[half:]
        slope = np.polyfit(np.array(samples.steps)[half:], values, 1)[0] * 1000
        console.print(f"{name}: {values.min():.1f} to {values.max():.1f}, slope {slope:+.2f} per 1,000 steps")


if __name__ == "__main__":
    measure(tyro.cli(Measurement, description=__doc__))
