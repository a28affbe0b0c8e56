"""What a job says about its data: which shards, how their images are augmented, batched and read."""

from dataclasses import dataclass, field

from qdet.data.augment import AugmentConfig
from qdet.data.plan import Tail
from qdet.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """WebDataset shards and how their images are augmented and read."""

    train: str = "data/coco/train2017"
    """Folder of shards to train on, as `data_prep` writes it."""
    val: str = "data/coco/val2017"
    """Folder of shards to evaluate on."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    by_size: bool = True
    """Put images of like final size into a batch, so that little of it is padding."""
    tail: Tail = "drop"
    """What happens to the last images of an epoch that fill no batch: they sit it out, or `wrap` fills the
    batch up with images that the epoch began with."""
    readers: int = 2
    """Threads per worker that read, decode and augment ahead of training."""
    prefetch: int = 4
    """Batches held ready per worker."""

    def __post_init__(self) -> None:
        """Reject what could never read, in the words of the command line."""
        if self.readers < 1:
            raise ConfigError(f"--data.readers must be at least 1, got {self.readers}")
        if self.prefetch < 1:
            raise ConfigError(f"--data.prefetch must be at least 1, got {self.prefetch}")
