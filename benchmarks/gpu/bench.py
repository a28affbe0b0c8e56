"""What the sections of a run share: sizes, what the card can do at most, which kernels are wrong."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.gpu.scale import Scale


@dataclass
class Bench:
    """One run of all sections."""

    scale: Scale
    seed: int = 0
    images: Path | None = None
    """Decoded images for the loss curves, made by `benchmarks.gpu.decoded`."""
    tflops: float = 0.0
    """What a bf16 matrix product reaches, once it was measured."""
    gb_per_s: float = 0.0
    """What a copy on the device reaches."""
    wrong: set[str] = field(default_factory=set)
    """Kernels that disagree with their definition: their speed means nothing."""


Lines = Iterator[dict[str, Any]]
"""What a section measures, one after the other: it is cut between two of them."""


@dataclass(frozen=True)
class Section:
    """A group of measurements with a share of the time."""

    name: str
    seconds: float
    """Of nine minutes."""
    measure: Callable[[Bench], Lines]
