"""Which process of a training this is, as Ray Train and torchrun say it."""

from collections.abc import Mapping
from dataclasses import dataclass

from qdet.errors import ConfigError

MEETING = ("MASTER_ADDR", "MASTER_PORT")
"""Variables that say where the processes of a training meet."""


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
        """Read torchrun's variables; without them, this is the only process.

        Raises:
            ConfigError: They contradict each other, are no numbers, or name no place where processes meet.
        """
        if not {"RANK", "WORLD_SIZE"} <= environment.keys():
            return cls()

        def read(name: str, default: int) -> int:
            return _number(name, environment.get(name, str(default)))

        _check_meeting(environment, rank=read("RANK", 0), size=read("WORLD_SIZE", 1))
        return cls.among(
            rank=read("RANK", 0),
            local_rank=read("LOCAL_RANK", 0),
            node=read("GROUP_RANK", 0),
            world=read("WORLD_SIZE", 1),
            local_world=read("LOCAL_WORLD_SIZE", read("WORLD_SIZE", 1)),
        )


def _check_meeting(environment: Mapping[str, str], *, rank: int, size: int) -> None:
    given = f"RANK={rank} and WORLD_SIZE={size}"
    if not 0 <= rank < size:
        raise ConfigError(f"{given} are set, but ranks go from 0 to WORLD_SIZE - 1; unset both, or mend them")
    missing = [name for name in MEETING if not environment.get(name)]
    if size > 1 and missing:
        raise ConfigError(
            f"{given} are set, so this is one of {size} processes, but {' and '.join(missing)}, where they "
            f"meet, {'is' if len(missing) == 1 else 'are'} not: start them with torchrun, set that too, or "
            "unset RANK and WORLD_SIZE to train in one process"
        )
    if size > 1:
        _number("MASTER_PORT", environment["MASTER_PORT"])


def _number(name: str, value: str) -> int:
    if not (value.isascii() and value.isdigit()):
        raise ConfigError(f"{name}={value!r} is set and is no number; unset it, or start with torchrun")
    return int(value)
