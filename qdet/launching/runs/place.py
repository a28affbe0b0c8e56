"""Which process of a training this is, as Ray Train and torchrun say it."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Place:
    """Which process of a training this is."""

    rank: int = 0
    local_rank: int = 0
    """Among those of its machine."""
    node: str | None = None
    """Name of the machine, where there are several."""

    @classmethod
    def among(cls, *, rank: int, local_rank: int, node: int, world: int, local_world: int) -> "Place":
        """Name the machine by its number if it has not all of the processes."""
        return cls(rank, local_rank, f"node{node}" if world > local_world else None)

    @classmethod
    def of_torchrun(cls, environment: Mapping[str, str]) -> "Place":
        """Read torchrun's variables; without them, this is the only process."""

        def read(name: str, default: int) -> int:
            return int(environment.get(name, default))

        return cls.among(
            rank=read("RANK", 0),
            local_rank=read("LOCAL_RANK", 0),
            node=read("GROUP_RANK", 0),
            world=read("WORLD_SIZE", 1),
            local_world=read("LOCAL_WORLD_SIZE", read("WORLD_SIZE", 1)),
        )
