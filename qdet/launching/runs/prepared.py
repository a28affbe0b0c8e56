"""One look at a job before it runs: its paths, its datasets and its run, each looked up once.

Dry run, preflight check, session, local run, Ray Train and sweep all take the same `Prepared`.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

from qdet.config import override
from qdet.data.shards.locate import DatasetInfo, locate
from qdet.data.shards.sequential_set import SequentialSet
from qdet.data.shards.shard_set import ShardSet
from qdet.errors import ConfigError, DataError
from qdet.job import Job
from qdet.launching import paths
from qdet.launching.runs import record

Split = Literal["train", "val"]


@dataclass(frozen=True)
class Prepared:
    """A job with absolute paths; what it names is looked up at first use and then kept."""

    job: Job
    name: str | None = None
    """Name of its run where the job gives none; see `qdet.launching.runs.record.choose`."""
    hash: str | None = None
    """That of a run of that name, if it does not follow from the name."""

    @cached_property
    def train(self) -> DatasetInfo:
        """What the driver can know of the training set; ConfigError where it cannot be used."""
        return _look(self.job, "train")

    @cached_property
    def val(self) -> DatasetInfo:
        """What the driver can know of the validation set; ConfigError where it cannot be used."""
        return _look(self.job, "val")

    @cached_property
    def run(self) -> record.Choice:
        """Which run this is, new or resumed; ConfigError where the store does not allow it."""
        return record.choose(self.job, name=self.name, hash=self.hash)

    def look_again(self) -> "Prepared":
        """Return the same with another look at the run, which has changed; the datasets are kept.

        Raises:
            ConfigError: The store does not allow it any more.
        """
        again = replace(self)
        kept = {name: found for name, found in vars(self).items() if name in ("train", "val")}
        vars(again).update(kept)
        return again


def prepare(job: Job, *, name: str | None = None) -> Prepared:
    """Make the paths of `job` absolute and the name of the run to resume whole, for the looks that follow.

    Args:
        job: As the command line gives it.
        name: Name of its run where the job gives none.

    Raises:
        ConfigError: `store.resume` names several runs.
    """
    job = paths.resolve(job)
    if job.store.resume not in (None, "auto"):
        job = override(job, {"store.resume": record.full_name(job.store.path, job.store.resume)})
    return Prepared(job, name)


def _look(job: Job, split: Split) -> DatasetInfo:
    """Look at all of a dataset on this machine, and at manifest and first shard's size of one behind a URL.

    Third-party shards behind a URL are scanned by the workers: their digest and number of images are None.

    Raises:
        ConfigError: It is not there, cannot be reached, or cannot be read as the job says.
    """
    address = job.data.train if split == "train" else job.data.val
    access, sequential = job.data.access, split == "train" and job.data.reading == "sequential"
    try:
        info = locate(address, access, commands=sequential)
        if sequential:
            info.check_reachable()
            dataset = SequentialSet.from_info(info, access, images=job.data.samples)
        elif paths.is_url(address):
            info.check_reachable()
            return info
        else:
            dataset = ShardSet.from_info(info, access, source=address)
    except DataError as error:
        raise ConfigError(f"--data.{split}: {error}") from error
    objects = dataset.objects if isinstance(dataset, ShardSet) else info.objects
    known = {"categories": dataset.categories, "digest": dataset.digest, "images": len(dataset)}
    return replace(info, **known, objects=objects)
