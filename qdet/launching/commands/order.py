"""`qdet order`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import arg


@dataclass(frozen=True, kw_only=True)
class OrderCommand:
    """Print which images training reads, a line of JSON per step. What follows `--` are flags of the job."""

    data: Annotated[str, arg(metavar="SHARDS")]
    """Folder or URL of shards, or one that holds a folder per split."""
    split: Annotated[str, arg(metavar="NAME")] = "train"
    """Split to print the order of."""
    seed: int = 0
    """The job's --train.seed."""
    epoch: int = 0
    """Epoch to print, from 0."""
    global_batch: int = 16
    """Images per step over all workers, the job's --train.batch-size."""
    world: int = 1
    """Workers that a step is shared by."""
    start: int = 0
    """First step, counted from the epoch's beginning."""
    steps: int | None = None
    """Steps to print; by default all up to the epoch's end, which they never pass."""
    job: Annotated[Path | None, arg(metavar="FILE")] = None
    """Job file whose augmentation, tail and batching by size are taken; by default those of DataConfig."""

    def run(self, job_flags: Sequence[str]) -> int:
        """Print the lines."""
        from qdet.launching.commands import epoch_order

        settings = epoch_order.settings_of(self.job, job_flags)
        stretch = epoch_order.Stretch(epoch=self.epoch, start=self.start, steps=self.steps, world=self.world)
        shards = epoch_order.find_split(self.data, self.split, settings)
        batch = self.global_batch
        epoch_order.show(epoch_order.lines(shards, settings, stretch, seed=self.seed, global_batch=batch))
        return 0
