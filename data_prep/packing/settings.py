"""How a dataset is cut into shards: the flags that all conversions share."""

import re
from dataclasses import dataclass

from qdet.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Packing:
    """How a dataset is checked and cut into shards."""

    shard_megabytes: float = 128.0
    """Image bytes per shard."""
    seed: int = 0
    """Seed of the order of images in the shards."""
    decode: bool = True
    """Look through all data of every image, as training does; truncated files are found without."""
    max_bad: int = 0
    """Unreadable or wrongly annotated images that may be dropped; the manifest lists them."""
    max_pixels: int = 100_000_000
    """Size of the largest image accepted."""
    merge_categories: bool = False
    """Make categories of one name one, under the smallest of their ids."""
    drop_empty: bool = False
    """Drop images without boxes."""
    processes: int = 0
    """Processes that write shards; 0 means one per CPU, up to 8."""
    ray: bool = False
    """Write shards as tasks of the Ray cluster at RAY_ADDRESS, which implies this flag."""

    def __post_init__(self) -> None:
        """Raises: ConfigError."""
        if not 0 < self.shard_megabytes <= 8192:
            raise ConfigError(
                f"--shard-megabytes must be above 0 and at most 8192, got {self.shard_megabytes}"
            )
        if self.max_pixels < 1:
            raise ConfigError(f"--max-pixels must be at least 1, got {self.max_pixels}")
        if self.max_bad < 0:
            raise ConfigError(f"--max-bad must be 0 or more, got {self.max_bad}")
        if self.seed < 0:
            raise ConfigError(f"--seed must be 0 or more, got {self.seed}")
        if self.processes < 0:
            raise ConfigError(f"--processes must be 0 (one per CPU) or more, got {self.processes}")


def check_split_name(split: str) -> None:
    """Raise ConfigError for a name that keys and file names of shards cannot hold."""
    if not re.fullmatch(r"[A-Za-z0-9_-]+", split):
        raise ConfigError(f"--split may have letters, digits, - and _ (no dots), got {split!r}")
