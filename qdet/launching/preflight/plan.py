"""What a training takes on so many machines: its split, what a step sends, hours, cost."""

from dataclasses import asdict, dataclass
from typing import Any

from data_prep.wording import plural
from qdet.config import override
from qdet.errors import ConfigError
from qdet.job import Job

FLAGS = ("nodes", "gpus_per_node", "images_per_s", "price")


@dataclass(frozen=True, kw_only=True)
class Machines:
    """Machines that a dry run reckons with."""

    nodes: int | None = None
    """With --dry-run: machines to train on; without, --train.workers are on one."""
    gpus_per_node: int | None = None
    """With --dry-run: workers on each of them."""
    images_per_s: float | None = None
    """With --dry-run: images that one worker trains on in a second, by a short run or `benchmarks`."""
    price: float | None = None
    """With --dry-run: price of one worker's GPU for an hour, in any currency."""

    def __post_init__(self) -> None:
        """Refuse what counts nothing."""
        for name in FLAGS:
            value, least = getattr(self, name), 1 if name in FLAGS[:2] else 0
            if value is not None and not (value >= least and 0 < value < float("inf")):
                raise ConfigError(f"--{name.replace('_', '-')} {value}: must be a number above 0")
        if self.price is not None and self.images_per_s is None:
            raise ConfigError("--price: the cost follows from the hours; give --images-per-s too")

    @property
    def given(self) -> list[str]:
        """Flags that were given."""
        return [f"--{name.replace('_', '-')}" for name in FLAGS if getattr(self, name) is not None]

    def apply_to(self, job: Job) -> Job:
        """Return the job on these machines; as it is where none are given.

        Raises:
            ConfigError: Its batch does not split over them.
        """
        if self.nodes is None and self.gpus_per_node is None:
            return job
        workers = (self.nodes or 1) * (self.gpus_per_node or 1)
        try:
            return override(job, {"train.workers": workers})
        except ConfigError as error:
            raise ConfigError(f"{' '.join(self.given[:2])} are {workers} workers: {error}") from error


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A training on some machines."""

    nodes: int
    workers: int
    sent_per_worker: float
    """Bytes that each worker sends in a step."""
    sent_per_node: float
    """Bytes that leave each machine in a step; 0 on one."""
    hours: float | None = None
    """Of the steps alone; None where the speed or the images are not known."""
    cost: float | None = None

    def rows(self) -> dict[str, str]:
        """Return it for people."""
        each = self.workers // self.nodes
        sent = f"{self.sent_per_worker / 1e9:.2f} GB by each worker"
        if self.nodes > 1:
            sent += f", {self.sent_per_node / 1e9:.2f} GB out of each node"
        rows = {
            "machines": f"{plural(self.nodes, 'node')} of {plural(each, 'worker')}",
            "sent in a step": sent if self.workers > 1 else "nothing: one worker",
            "hours": "unknown: give --images-per-s, the images that one worker trains on in a second",
        }
        if self.hours is not None:
            rows["hours"] = f"{self.hours:.2f} for the steps; evaluations and starts come on top"
        if self.cost is not None:
            rows["cost"] = f"{self.cost:,.2f}, in the currency of --price"
        return rows

    def as_json(self) -> dict[str, Any]:
        """Return it for programs: bytes, hours, and None of what is unknown."""
        return asdict(self)


def plan(job: Job, machines: Machines, *, parameters: int, trained: int, steps: int | None) -> Plan:
    """Reckon what a job takes on some machines.

    A ring sends (n - 1)/n of the gradients to be summed and as much of the result (ZeRO-0), or of the
    updated weights (ZeRO-1 and 2); ZeRO-3 gathers the weights twice, forward and backward (Rajbhandari et
    al., SC 2020, section 7). Rings pass through each machine once: as much leaves it as one worker sends.

    Args:
        job: With `machines` applied.
        machines: Where it trains.
        parameters: Of the detector.
        trained: Those that are not frozen.
        steps: Optimizer steps of the whole training; None if unknown.
    """
    workers, nodes = job.train.most_workers, machines.nodes or 1
    share, word = (workers - 1) / workers, 4.0
    weights = 2 * parameters if job.train.zero == 3 else trained
    sent = share * word * (trained + weights)
    hours = None
    if steps is not None and machines.images_per_s is not None:
        hours = steps * job.train.batch_size / (machines.images_per_s * workers) / 3600
    return Plan(
        nodes=nodes,
        workers=workers,
        sent_per_worker=sent,
        sent_per_node=sent if nodes > 1 else 0.0,
        hours=hours,
        cost=None if hours is None or machines.price is None else hours * workers * machines.price,
    )
