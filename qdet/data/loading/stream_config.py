"""What every stream is given beside its data: its share of the batches, and how they are read."""

from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import torch

from qdet.data.denoising.config import DenoisingConfig
from qdet.data.denoising.draw import NoiseSource
from qdet.data.loading.prefetch import Load, Readers, Upload, read_ahead
from qdet.data.plan.epoch import Tail
from qdet.errors import ConfigError
from qdet.types import Batch

Pad = Literal["global", "rank"]
"""What an image is padded to: the largest of its global batch, or of those in the same forward pass."""


@dataclass(frozen=True, kw_only=True)
class StreamConfig:
    """One rank's share of the batches.

    Evaluation uses neither seed, accumulation, tail, `pad` nor `max_bad`.
    """

    batch_size: int
    """Images of a batch over all ranks; in evaluation, of each rank's batch."""
    seed: int = 0
    """Decides order and augmentation."""
    rank: int = 0
    world_size: int = 1
    accumulation: int = 1
    """Micro-batches that a rank's share of a step is split into."""
    tail: Tail = "drop"
    """What becomes of the images that do not fill an epoch's last batch."""
    pad: Pad = "global"
    max_bad: int = 0
    """Unreadable images that are replaced before reading fails."""
    readers: int = 2
    """Threads or processes that read and decode."""
    reader_kind: Readers = "threads"
    prefetch: int = 4
    """Batches that are read ahead; at least one per reader."""
    denoising: DenoisingConfig = field(default_factory=DenoisingConfig)
    """How objects are noised, which decides how many random numbers a batch carries."""
    device: torch.device | None = None
    """Where images are copied to, if it is a GPU."""

    def check_split(self) -> None:
        """Raise `ConfigError` unless every rank has an image in each of its micro-batches."""
        if self.batch_size < self.world_size * self.accumulation:
            raise ConfigError(
                f"--train.batch-size {self.batch_size} leaves some of {self.world_size} workers without an "
                f"image in one of their {self.accumulation} passes per step; use fewer workers, or "
                "--train.accumulation 1"
            )

    def noise(self, epoch: int) -> NoiseSource | None:
        """Return what draws the noise of an epoch; None without denoising."""
        if self.denoising.kind == "none":
            return None
        return NoiseSource(config=self.denoising, seed=self.seed, epoch=epoch)

    @property
    def ahead(self) -> int:
        """Batches that are being read or wait."""
        return max(self.prefetch, self.readers)

    def reader(self) -> Callable[[Iterable[Load]], Generator[Batch, None, None]]:
        """Return what turns loads into batches: read ahead, and on the device where that is a GPU."""
        upload = None
        if self.device is not None and self.device.type == "cuda":
            upload = Upload(self.device)
        return partial(read_ahead, readers=self.readers, ahead=self.ahead, kind=self.reader_kind, then=upload)
