"""What happened to the images of an epoch, by their ids."""

from collections.abc import Sequence
from dataclasses import dataclass

from qdet.errors import DataError

_SHOWN = 5


@dataclass(frozen=True)
class Account:
    """What happened to the images of an epoch, or of the part of it that was counted, by their ids."""

    epoch: int
    first: int
    """Steps of the epoch, counted from 0, that this is about."""
    last: int
    lost: tuple[int, ...]
    """Planned and not received."""
    duplicated: tuple[int, ...]
    """Received more often than planned."""
    dropped: tuple[int, ...]
    """Left out by the plan, because they filled no batch."""
    wrapped: tuple[int, ...]
    """Planned once more, to fill the last batch."""
    substituted: tuple[int, ...]
    """Could not be read; others stood in for them."""

    def __str__(self) -> str:
        """All counts in a line, for people and for programs."""
        counts = " ".join(f"{name}={len(ids)}" for name, ids in self._images().items())
        return f"images of epoch {self.epoch}, steps {self.first} to {self.last}: {counts}"

    @property
    def as_planned(self) -> bool:
        """True if images were received as often as planned; what the plan drops or wraps is planned."""
        return not (self.lost or self.duplicated or self.substituted)

    def metrics(self) -> dict[str, int]:
        """All counts by the name of their metric."""
        return {f"data/{name}": len(ids) for name, ids in self._images().items()}

    def table(self) -> dict[str, list[int] | list[str]]:
        """Every image that is counted, with what happened to it; empty where there is none."""
        rows = [(image, what) for what, ids in self._images().items() for image in ids]
        return {"image_id": [image for image, _ in rows], "what": [what for _, what in rows]} if rows else {}

    def check(self) -> None:
        """Raise DataError if an image was lost, or received twice, without the plan or a reader saying so."""
        if self.lost or self.duplicated:
            raise DataError(
                f"{self}; {_list_ids('lost', self.lost)}; {_list_ids('duplicated', self.duplicated)}"
            )

    def _images(self) -> dict[str, tuple[int, ...]]:
        return {
            "lost": self.lost,
            "duplicated": self.duplicated,
            "dropped": self.dropped,
            "wrapped": self.wrapped,
            "substituted": self.substituted,
        }


def _list_ids(what: str, ids: Sequence[int]) -> str:
    few = ", ".join(map(str, ids[:_SHOWN])) + (", ..." if len(ids) > _SHOWN else "")
    return f"{what}: {few or 'none'}"
