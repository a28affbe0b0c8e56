"""What a job says about its data: which shards, how their images are augmented, batched and read."""

from dataclasses import dataclass, field
from typing import Literal

from qdet.data.augment import AugmentConfig
from qdet.data.files.pipes import allowed_words
from qdet.data.loading.prefetch import Readers
from qdet.data.loading.stream_config import Pad
from qdet.data.plan.epoch import Tail
from qdet.data.shards.locate import Access, DatasetInfo
from qdet.data.shards.sequential_set import SequentialSet
from qdet.data.shards.shard_set import ShardSet
from qdet.errors import ConfigError
from qdet.storage.urls import is_pipe


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
    """Images that all workers together may find unreadable; each is named, and another of its global batch
    stands in. Also samples of third-party shards that may be dropped when they are scanned."""
    max_pixels: int = Access.max_pixels
    """Pixels of the largest image that is decoded; a larger one is refused by its header."""
    reading: Literal["offset", "sequential"] = "offset"
    """How training shards are read: by offset, along a plan; or from front to back, for commands and for
    stores where a cache is too expensive, with a weaker promise. Evaluation always reads by offset."""
    samples: int | None = None
    """Images that make an epoch of `sequential` reading; by default those that a manifest counts."""
    shuffle_buffer: int = 1000
    """Images that `sequential` reading holds in a worker's memory and draws the next one from."""
    allow_pipes: tuple[str, ...] = ()
    """First words of commands that `pipe:` addresses in `train` may run, as 'curl -sf'; no shell does."""
    allow_hosts: tuple[str, ...] = ()
    """Hosts and buckets that a manifest behind a URL may name beside its own folder."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    by_size: bool = True
    """Put images of like final size into a batch, so that little of it is padding."""
    pad: Pad = "global"
    """What training images are padded to: the largest of the global batch, so that the number of workers
    changes nothing, or with `rank` the largest of the same worker's forward pass, as in the authors' code:
    one image is not padded at all then, and losses depend on how many share a pass."""
    tail: Tail = "drop"
    """What happens to the last images of an epoch that fill no batch: they are left out, or `wrap` fills the
    batch up with images that the epoch began with."""
    readers: int = 2
    """Readers per worker that read, decode and augment ahead of training."""
    reader_kind: Readers = "threads"
    """What readers are: threads, which take two thirds of the processor time, or processes, which share no
    Python lock with training."""
    prefetch: int = 4
    """Batches held ready per worker."""

    def __post_init__(self) -> None:
        """Reject settings that no dataset could be read with."""
        if self.readers < 1:
            raise ConfigError(f"--data.readers must be at least 1, got {self.readers}")
        if self.prefetch < 1:
            raise ConfigError(f"--data.prefetch must be at least 1, got {self.prefetch}")
        if self.max_bad < 0:
            raise ConfigError(f"--data.max-bad must be 0 (stop at once) or more, got {self.max_bad}")
        for name in ("max_pixels", "samples", "shuffle_buffer"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"--data.{name.replace('_', '-')} must be at least 1, got {value}")
        self._check_pipes()
        if not self.cache_gb > 0:
            raise ConfigError(f"--data.cache-gb must be above 0, got {self.cache_gb}")

    @property
    def access(self) -> Access:
        """How shards are opened."""
        return Access(
            cache=self.cache,
            cache_gb=self.cache_gb,
            categories=self.categories,
            max_pixels=self.max_pixels,
            max_bad=self.max_bad,
            allow_pipes=self.allow_pipes,
            allow_hosts=self.allow_hosts,
        )

    def count_trained(self, info: DatasetInfo) -> int | None:
        """Return how many images of a dataset make an epoch, as far as its manifest tells; None where not.

        Images smaller than the pipeline takes are counted; sequential reading counts all.
        """
        if info.images is None or self.augment.rules.without_objects or self.reading == "sequential":
            return info.images
        counts = (info.manifest or {}).get("counts", {})
        return info.images - int(counts.get("images_without_boxes", 0))

    def open(self, address: str) -> ShardSet:
        """Open `train`, `val` or other shards with these settings, to be read by offset."""
        return ShardSet.open(address, self.access)

    def open_train(self) -> ShardSet | SequentialSet:
        """Open the shards to train on, to be read as `reading` says."""
        if self.reading == "offset":
            return self.open(self.train)
        return SequentialSet.open(self.train, self.access, images=self.samples)

    def _check_pipes(self) -> None:
        for entry in self.allow_pipes:
            if not entry.split():
                raise ConfigError("--data.allow-pipes holds an empty command; name what may be run")
        pipes = {
            flag: [part for part in address.split("::") if is_pipe(part)]
            for flag, address in (("train", self.train), ("val", self.val))
        }
        if pipes["val"]:
            raise ConfigError(
                f"--data.val {pipes['val'][0]}: evaluation reads by offset, and what a command writes can "
                "only be read from front to back; give a folder, or a URL for the cache"
            )
        for name in pipes["train"]:
            allowed_words(name, self.allow_pipes)
            if self.reading != "sequential":
                raise ConfigError(
                    f"--data.train {name}: what a command writes can only be read from front to back; give "
                    "--data.reading sequential with it"
                )
