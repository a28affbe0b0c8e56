"""What a job says about its data: which shards, how their images are augmented, batched and read."""

from dataclasses import dataclass, field

from qdet.data.augment import AugmentConfig
from qdet.data.home import Access
from qdet.data.plan import Tail
from qdet.data.readers import Readers
from qdet.data.shards import ShardSet
from qdet.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """WebDataset shards and how their images are augmented and read."""

    train: str = "data/coco/train2017"
    """Shards to train on: a folder or URL as `data_prep` writes it, or tars such as s3://a/t-{000..146}.tar."""
    val: str = "data/coco/val2017"
    """Shards to evaluate on."""
    categories: str | None = None
    """COCO annotation file that names the classes of shards which do not name them themselves."""
    cache: str = Access.cache
    """Folder on every machine that keeps shards from behind URLs; its workers share it."""
    cache_gb: float = Access.cache_gb
    """Largest size of that folder; shards that are not needed soon leave it first."""
    max_bad: int = 0
    """Images that a worker may find unreadable; each is named, and another of its global batch stands in."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    by_size: bool = True
    """Put images of like final size into a batch, so that little of it is padding."""
    tail: Tail = "drop"
    """What happens to the last images of an epoch that fill no batch: they sit it out, or `wrap` fills the
    batch up with images that the epoch began with."""
    readers: int = 2
    """Readers per worker that read, decode and augment ahead of training."""
    reader_kind: Readers = "threads"
    """What readers are: threads, which take two thirds of the processor time, or processes, which share no
    Python lock with training."""
    prefetch: int = 4
    """Batches held ready per worker."""

    def __post_init__(self) -> None:
        """Reject what could never read, in the words of the command line."""
        if self.readers < 1:
            raise ConfigError(f"--data.readers must be at least 1, got {self.readers}")
        if self.prefetch < 1:
            raise ConfigError(f"--data.prefetch must be at least 1, got {self.prefetch}")
        if self.max_bad < 0:
            raise ConfigError(f"--data.max-bad must be 0 (stop at once) or more, got {self.max_bad}")
        if not self.cache_gb > 0:
            raise ConfigError(f"--data.cache-gb must be above 0, got {self.cache_gb}")

    def open(self, address: str) -> ShardSet:
        """Open `train`, `val` or other shards with these settings."""
        access = Access(cache=self.cache, cache_gb=self.cache_gb, categories=self.categories)
        return ShardSet.open(address, access)
