"""Give a class head other classes: rows of the classes that both have are kept, by name.

Which tensors have a row per class, and along which dimension, is read off the detector itself: those that
grow when it is built for one class more. Rows behind the classes, such as that of no object, are kept.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int64
from torch import Tensor

from qdet.detectors import DetectorConfig

_SHOWN = 12
"""Most names in a line."""
_PROBE = 3
"""Classes of the detector that is built to see what grows; any number would do."""

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class ClassMatch:
    """Which class of a job is which class of a checkpoint."""

    theirs: tuple[str, ...]
    """Names in the checkpoint, in label order."""
    names: tuple[str, ...]
    """Names in the job, in label order."""

    @property
    def unnamed(self) -> bool:
        """Whether the checkpoint numbers its classes, as many as the job has: they are taken in order."""
        return len(self.theirs) == len(self.names) and all(name.isdigit() for name in self.theirs)

    @property
    def same(self) -> bool:
        """Whether every row stays where it is."""
        return self.theirs == self.names or self.unnamed

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """Labels (there, here) of the classes that are kept, in the order of the job."""
        if self.same:
            return [(k, k) for k in range(len(self.names))]
        label = {name: k for k, name in enumerate(self.theirs)}
        return [(label[name], k) for k, name in enumerate(self.names) if name in label]

    def describe(self) -> str:
        """Say in one line what is kept and what starts afresh."""
        if self.unnamed:
            return f"class head: kept all {len(self.names)} rows in order, as the checkpoint names no classes"
        kept = [self.names[here] for _, here in self.pairs]
        new = [name for name in self.names if name not in kept]
        gone = [name for name in self.theirs if name not in kept]
        parts = [
            f"{what} {_list(names)}"
            for what, names in (("kept", kept), ("new", new), ("left out", gone))
            if names
        ]
        return f"class head: {'; '.join(parts)}"


def tensor_shapes(config: DetectorConfig, classes: int) -> Shapes:
    """Return the shape of every parameter and buffer of a detector, without building it in memory."""
    with torch.device("meta"):
        return {name: tuple(t.shape) for name, t in config.build(classes).state_dict().items()}


def class_axes(config: DetectorConfig) -> dict[str, int]:
    """Return the tensors that have a row per class, with the dimension of these rows."""
    few, more = tensor_shapes(config, _PROBE), tensor_shapes(config, _PROBE + 1)
    return {
        name: next(axis for axis, (a, b) in enumerate(zip(shape, more[name], strict=True)) if a != b)
        for name, shape in few.items()
        if shape != more[name]
    }


def move_rows(
    weights: Mapping[str, Tensor],
    fresh: Mapping[str, Tensor],
    match: ClassMatch,
    *,
    axes: Mapping[str, int],
    agnostic: Sequence[str] = (),
) -> dict[str, Tensor]:
    """Return `weights` for the classes of a job.

    Args:
        weights: Of the checkpoint.
        fresh: Of the job's own initialisation: what its new classes start from.
        match: Which class is which.
        axes: Tensors with a row per class, from `class_axes`.
        agnostic: Modules whose first row means an object of any class, and whose others are not trained.
    """
    if match.same:
        return dict(weights)
    moved = dict(weights)
    for name, axis in axes.items():
        there, here = _rows(
            match, weights[name].shape[axis], agnostic=name.rpartition(".")[0] in tuple(agnostic)
        )
        rows = weights[name].index_select(axis, there).to(fresh[name].dtype)
        moved[name] = fresh[name].detach().clone().index_copy_(axis, here, rows)
    return moved


def _rows(match: ClassMatch, rows: int, *, agnostic: bool) -> tuple[Int64[Tensor, " n"], Int64[Tensor, " n"]]:
    """Return which rows of a tensor are kept, and where they go."""
    behind = range(rows - len(match.theirs))  # such as the row of no object
    pairs = [(0, 0)] if agnostic else match.pairs
    pairs = pairs + [(len(match.theirs) + k, len(match.names) + k) for k in behind]
    there, here = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2).unbind(1)
    return there, here


def _list(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
