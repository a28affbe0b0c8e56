"""Hungarian matching of queries to objects, for all stages and images at once.

S stages   B images   N queries   T objects of the fullest image   m matched pairs of the batch
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from qdet.errors import DivergedError
from qdet.types import Targets


@dataclass(frozen=True)
class Assignment:
    """Pairs of query and object, equally many per stage, in the order of the images."""

    queries: Int[Tensor, "S m"]
    """Queries of the batch: image * N + query."""
    objects: Int[Tensor, "S m"]
    """Rows of `Targets`."""


def assign(cost: Float[Tensor, "S B N T"], counts: Sequence[int]) -> Assignment:
    """Match every object (or, with fewer queries, every query) at minimal total cost.

    Columns from an image's count on are padding. This is the step's only copy from device to host: one
    tensor for all stages and images. The indices go back in one copy as well.

    Raises:
        DivergedError: a cost is NaN or infinite, so predictions are.
    """
    stages, images, queries, _ = cost.shape
    pairs = np.zeros((2, stages, sum(min(queries, n) for n in counts)), dtype=np.int64)
    if pairs.size:
        on_host = cost.detach().cpu().numpy()
        for stage in range(stages):
            pairs[:, stage] = np.concatenate(
                [_assign_image(on_host[stage, i, :, : counts[i]], stage, i) for i in range(images)], axis=1
            )
        pairs += _first_rows(counts, queries)[:, None]
    queries_of, objects_of = torch.from_numpy(pairs).to(cost.device)
    return Assignment(queries_of, objects_of)


def matched_objects(targets: Targets, queries: int) -> int:
    """Count the matched pairs per stage: an image's objects, or its queries if fewer."""
    return sum(min(queries, n) for n in targets.counts)


def padded_rows(
    counts: Sequence[int], device: torch.device
) -> tuple[Int[Tensor, "B T"], Bool[Tensor, "B T"]]:
    """Return each image's rows of the packed objects, padded with other rows, and which are its own."""
    first = list(accumulate(counts, initial=0))
    steps = range(max(counts, default=0))
    rows = [[min(start + t, first[-1] - 1) for t in steps] for start in first[:-1]]
    present = [[t < n for t in steps] for n in counts]
    return (
        torch.tensor(rows, dtype=torch.long).to(device, non_blocking=True),
        torch.tensor(present, dtype=torch.bool).to(device, non_blocking=True),
    )


def _assign_image(cost: np.ndarray, stage: int, image: int) -> np.ndarray:
    if not np.isfinite(cost).all():
        raise DivergedError(
            f"training diverged: the matching cost of stage {stage}, image {image} of the batch is NaN or "
            "infinite, so its predictions or boxes are. Lower --optim.lr, lengthen --optim.warmup-steps, or "
            "try --train.precision fp32"
        )
    return np.stack(linear_sum_assignment(cost))


def _first_rows(counts: Sequence[int], queries: int) -> np.ndarray:
    """Return, for every pair, where its image's queries and objects begin: [2, m]."""
    pairs = [min(queries, n) for n in counts]
    begin = np.array([np.arange(len(counts)) * queries, list(accumulate(counts, initial=0))[:-1]])
    return np.repeat(begin, pairs, axis=1)
