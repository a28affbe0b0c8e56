"""All ranks read the same data: their copies are compared once, before anything is trained.

A rank with another copy plans other batches. Losses and the accounting of images look as they should, for
every rank compares what it reads with its own copy.
"""

import socket
from collections.abc import Mapping, Sequence

from qdet.data.shards.protocol import Dataset
from qdet.data.shards.shard_set import ShardSet
from qdet.errors import ConfigError
from qdet.training.distributed import World

SHOWN = 12
"""Letters of a digest in a message."""


def check_same_data(world: World, train: Dataset, val: Dataset) -> tuple[str, ...]:
    """Compare both datasets over all ranks (collective).

    Returns:
        The host of each rank.

    Raises:
        ConfigError: On every rank: some have other data. It names hosts, ranks and digests.
    """
    own = {"host": socket.gethostname(), "train": identify(train), "val": identify(val)}
    ranks: list[dict[str, str]] = world.broadcast(world.gather(own))
    if found := [line for split in ("train", "val") if (line := describe_copies(split, ranks))]:
        raise ConfigError(
            f"{'; '.join(found)}. Copy the same shards, manifest and index to every machine; nothing was "
            "trained"
        )
    return tuple(rank["host"] for rank in ranks)


def identify(dataset: Dataset) -> str:
    """Return what tells a dataset from any other: its digest and that of its index.

    The digest is of shards and classes. The index says which samples are read, and their checksums: ranks
    that indexed third-party shards by themselves may have left out other samples.
    """
    index = str(dataset.manifest["index_sha256"]) if isinstance(dataset, ShardSet) else ""
    return f"{dataset.digest} {index}".strip()


def describe_copies(split: str, ranks: Sequence[Mapping[str, str]]) -> str | None:
    """Return who has which copy of a split, rank by rank; None where all have the same."""
    copies: dict[str, dict[str, list[int]]] = {}
    for number, rank in enumerate(ranks):
        copies.setdefault(rank[split], {}).setdefault(rank["host"], []).append(number)
    if len(copies) == 1:
        return None
    digests = {copy.partition(" ")[0] for copy in copies}
    part, kind = (0, "digest") if len(digests) > 1 else (2, "index")
    said = (f"{kind} {copy.partition(' ')[part][:SHOWN]} {_name(hosts)}" for copy, hosts in copies.items())
    return f"--data.{split} is not the same on all machines: {', '.join(said)}"


def _name(hosts: Mapping[str, Sequence[int]]) -> str:
    """Return hosts with their ranks."""
    return " and ".join(
        f"on {host} (rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))})"
        for host, ranks in hosts.items()
    )
