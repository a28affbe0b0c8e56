"""Compare an exported file with PyTorch: the file as it was written, in batches of several sizes.

B images   n rows of an image: detections, or queries
"""

import math
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.func import functional_call

from qdet.errors import ExportError
from qdet.exporting.graphs import make_inputs
from qdet.inference.runners.graphs import Form, Session

BATCHES = (1, 3, 8)
"""Images per batch that a file is tried with."""
SIZES = ((128, 160), (224, 192))
"""Heights and widths of the batches."""
TOLERANCE = 1e-4
"""Largest difference of a score, and of a coordinate relative to itself plus its image's longer side."""

DISTURBANCE = 1e-5
"""Relative change of every weight, as much as rounding adds up to, that tells where rounding decides."""
DRAWS = 16
"""Changes that are tried."""


@dataclass(frozen=True)
class Difference:
    """Largest differences between two implementations of one model."""

    scores: float
    boxes: float
    """Relative to the coordinate plus the longer side of the image."""
    images: int = 0
    """Images compared."""

    @classmethod
    def largest(cls, found: list["Difference"]) -> "Difference":
        """Return the largest of several."""
        return cls(
            max(one.scores for one in found),
            max(one.boxes for one in found),
            sum(one.images for one in found),
        )

    @property
    def finite(self) -> bool:
        """Whether both are numbers."""
        return math.isfinite(self.scores) and math.isfinite(self.boxes)

    @property
    def within(self) -> bool:
        """Whether both are at most `TOLERANCE`; NaN is not."""
        return self.scores <= TOLERANCE and self.boxes <= TOLERANCE


@dataclass(frozen=True)
class Rows:
    """One image's detections or queries, comparable whatever their order."""

    scores: Float[Tensor, "n k"]
    """Scores: one of a detection, one per class of a query."""
    boxes: Float[Tensor, "n 4"]
    labels: Float[Tensor, " n"]


def check(module: nn.Module, session: Session, form: Form, name: str) -> Difference:
    """Compare a session with the module that it was exported from.

    Images on which rounding decides what the module itself finds are left out, if they are at most half.

    Raises:
        ExportError: They differ by more than `TOLERANCE`, or the session fails; the message names the file.
    """
    found: list[Difference] = []
    for number, (batch, padded_hw) in enumerate((b, hw) for b in BATCHES for hw in SIZES):
        inputs = make_inputs(form, batch=batch, padded_hw=padded_hw, seed=1 + number)
        try:
            differences = compare(module, session, form, inputs)
        except (RuntimeError, ValueError) as error:
            raise ExportError(f"{name} fails at batch {batch}, {padded_hw}: {error}") from error
        if not all(one.within for one in differences):
            differing = {place for place, one in enumerate(differences) if not one.within}
            undecided = find_undecided(module, form, inputs, differing)
            differences = [one for place, one in enumerate(differences) if place not in undecided]
        found += differences
        if differences and not (difference := Difference.largest(differences)).within:
            raise ExportError(
                f"{name} differs from PyTorch at batch {batch}, {padded_hw}: scores by "
                f"{difference.scores:.1e}, boxes by {difference.boxes:.1e}, more than {TOLERANCE:.0e}"
            )
    planned = len(SIZES) * sum(BATCHES)
    if len(found) < planned / 2:
        raise ExportError(
            f"{name} cannot be compared with PyTorch: on {planned - len(found)} of {planned} images rounding "
            "decides what PyTorch itself finds"
        )
    return Difference.largest(found)


def find_undecided(
    module: nn.Module, form: Form, inputs: tuple[Tensor, ...], places: Collection[int]
) -> set[int]:
    """Return those of some images of a batch in which rounding decides what a module finds.

    Where two proposals score almost the same, it decides which comes first, and with mixed query selection
    (DINO, Sec. 3.4) which learned query refines which of them; where a box wanders far out of the image, it
    grows from stage to stage. Changing every weight a little tells.
    """
    undecided: set[int] = set()
    for draw in range(DRAWS):
        disturbed = partial(functional_call, module, _disturb(module, seed=draw))
        found = compare(module, lambda *given, call=disturbed: call(given), form, inputs)
        undecided |= {place for place in places if found[place].finite and not found[place].within}
        if len(undecided) == len(places):
            break
    return undecided


def _disturb(module: nn.Module, *, seed: int) -> dict[str, Tensor]:
    """Return the parameters of a module, each changed by about `DISTURBANCE` of itself."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: weight.detach()
        * (1 + DISTURBANCE * torch.randn(weight.shape, generator=generator).to(weight.device))
        for name, weight in module.named_parameters()
    }


@torch.no_grad()
def compare(
    module: Callable[..., tuple[Tensor, ...]], session: Session, form: Form, inputs: tuple[Tensor, ...]
) -> list[Difference]:
    """Compare two implementations on each image of a batch."""
    pairs = zip(split_rows(module(*inputs), form), split_rows(session(*inputs), form), strict=True)
    sides = _longer_sides(inputs, form)
    return [compare_image(a, b, side) for (a, b), side in zip(pairs, sides, strict=True)]


def compare_image(a: Rows, b: Rows, side: float) -> Difference:
    """Find for each row of either the nearest of the other, and return how far apart those are at most.

    Order does not count: rounding decides it where scores are almost equal. Neither does which rows are the
    last ones, for the same reason: those that score within the tolerance of the worst are compared by their
    scores alone.

    Args:
        a: Rows of one implementation.
        b: Rows of the other.
        side: Longer side in pixels of the image that boxes are in.
    """
    if a.scores.shape != b.scores.shape:
        return Difference(float("inf"), float("inf"), 1)
    scores = (a.scores[:, None] - b.scores).abs().amax(-1)
    ranked = (a.scores.sort(dim=0).values - b.scores.sort(dim=0).values).abs().max().item()
    boxes = ((a.boxes[:, None] - b.boxes).abs() / (a.boxes[:, None].abs() + side)).amax(-1)
    far = torch.maximum(scores, boxes) + (a.labels[:, None] != b.labels)
    worst = [ranked], [0.0]
    for table, kept in ((far, _above_the_last(a)), (far.mT, _above_the_last(b))):
        nearest = table.argmin(1)
        rows = torch.arange(len(nearest))
        s, x = (scores, boxes) if table is far else (scores.mT, boxes.mT)
        mismatched = table[rows, nearest] >= 1  # of another class, or NaN
        worst[0].append(_max((s[rows, nearest] + mismatched)[kept]))
        worst[1].append(_max(x[rows, nearest][kept]))
    return Difference(max(worst[0]), max(worst[1]), 1)


def split_rows(outputs: tuple[Tensor, ...], form: Form) -> Iterator[Rows]:
    """Yield the rows of each image of a batch."""
    if form == "raw":
        logits, boxes = outputs
        for scores, corners in zip(logits.sigmoid(), boxes, strict=True):
            yield Rows(scores.double(), corners.double(), torch.zeros(len(corners)))
    else:
        for corners, scores, labels in zip(*outputs, strict=True):
            yield Rows(scores.double().unsqueeze(-1), corners.double(), labels.double())


def _above_the_last(rows: Rows) -> Bool[Tensor, " n"]:
    """Return which detections cannot be replaced by an equally good one that did not make it; all queries."""
    if rows.scores.shape[1] > 1:
        return torch.ones(len(rows.scores), dtype=torch.bool)
    return rows.scores[:, 0] > rows.scores.min() + TOLERANCE


def _longer_sides(inputs: tuple[Tensor, ...], form: Form) -> list[float]:
    images = inputs[0]
    if form == "image":
        return [float(max(images.shape[-2:]))] * len(images)
    return inputs[-1].amax(1).double().tolist()


def _max(values: Tensor) -> float:
    return values.max().item() if len(values) else 0.0
