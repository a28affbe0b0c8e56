"""Tensors in flat pieces: which rank holds which part, and whether the parts are complete.

A piece is a run of a flattened tensor's elements, called `weights/backbone.stem.weight@4096` in a file: the
tensor's kind, its name, and where in it the piece starts.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from jaxtyping import Shaped
from torch import Tensor

from qdet.errors import CheckpointError


@dataclass(frozen=True)
class Piece:
    """The elements of the flattened tensor `name` from `start` on."""

    name: str
    """Kind and name of the whole tensor, such as `exp_avg/decoder.query`."""
    start: int
    values: Shaped[Tensor, " n"]

    @property
    def key(self) -> str:
        """Its name in a file."""
        return f"{self.name}@{self.start}"

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return self.values.numel() * self.values.element_size()


def name_and_start(key: str) -> tuple[str, int | None]:
    """Parse a piece's `key`; without a start it is none."""
    name, _, start = key.rpartition("@")
    return name, int(start) if start.isascii() and start.isdigit() and len(start) < 20 else None


def even_shares(tensors: Mapping[str, Tensor], *, rank: int, world: int) -> dict[str, range]:
    """Return the part of each tensor that `rank` writes if all ranks hold all tensors.

    The bytes of all tensors, laid end to end, are cut into `world` runs of equal length. An element belongs
    to the run that its first byte is in.
    """
    total = sum(t.numel() * t.element_size() for t in tensors.values())
    cuts = (total * rank // world, total * (rank + 1) // world)
    shares, passed = {}, 0
    for name, tensor in tensors.items():
        size, count = tensor.element_size(), tensor.numel()
        start, stop = (min(max(-((passed - cut) // size), 0), count) for cut in cuts)
        if start < stop:
            shares[name] = range(start, stop)
        passed += size * count
    return shares


def cut(tensor: Tensor, share: range) -> Shaped[Tensor, " n"]:
    """Return a part of the flattened tensor, without a copy if it is contiguous."""
    return tensor.detach().reshape(-1)[share.start : share.stop]


def check_cover(name: str, numel: int, spans: Iterable[range], *, source: object) -> None:
    """Raise a CheckpointError unless the pieces `spans` hold every element of a tensor exactly once."""
    end = 0
    for span in [*sorted(spans, key=lambda s: (s.start, s.stop)), range(numel, numel)]:
        if span.start > end:
            raise CheckpointError(f"{source} lacks element {end} of the {numel} of {name}")
        if span.start < end:
            raise CheckpointError(f"{source} holds element {span.start} of {name} twice, or has too many")
        end = span.stop
