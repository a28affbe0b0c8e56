"""What the driver can know of a job's datasets before any worker starts, without fetching a shard."""

from dataclasses import dataclass

from qdet.data.shards.categories import Categories
from qdet.data.shards.outline import Outline
from qdet.errors import ConfigError, DataError
from qdet.job import Job
from qdet.launching.paths import is_url


@dataclass(frozen=True)
class Known:
    """A dataset from the driver's view; None is what only workers will know, once they have scanned it."""

    categories: Categories | None
    digest: str | None
    images: int | None


def known(job: Job, split: str) -> Known:
    """Look at `train` or `val`: on this machine all of it, behind a URL manifest and first shard's size.

    Raises:
        ConfigError: It is not there, cannot be reached, or cannot be read as the job says.
    """
    address = job.data.train if split == "train" else job.data.val
    try:
        if split == "train" and job.data.reading == "sequential":
            Outline.of(address, job.data.access).reach()
            shards = job.data.open_train()
        elif is_url(address):
            outline = Outline.of(address, job.data.access)
            outline.reach()
            return Known(outline.categories, outline.digest if outline.listed else None, outline.images)
        else:
            shards = job.data.open(address)
    except DataError as error:
        raise ConfigError(f"--data.{split}: {error}") from error
    return Known(shards.categories, shards.digest, len(shards))
