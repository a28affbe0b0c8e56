"""Hungarian matching of all stages and images in one launch, with scipy's pairs.

S stages   B images   N queries   T objects of the batch   m matched pairs of the batch
"""

from collections.abc import Sequence
from functools import partial
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int32, Int64
from torch import Tensor

from qdet.kernels.agreement import wave
from qdet.kernels.choice import fall_back, kernels_wanted, trusted

NAME = "assignment"
MOST = 2048
"""Queries, and objects of an image, that a program holds in its registers."""
_PER_WARP = 256


def assignment(
    cost: Float[Tensor, "S T N"], counts: Sequence[int]
) -> tuple[Int64[Tensor, "2 S m"], Int32[Tensor, "S B"]]:
    """Match every object (or, with fewer queries, every query) of each image at minimal total cost.

    Row t holds object t's costs for the queries of its image; `counts` are the objects of the images. The
    sums are scipy's, in float64 and in its order, so the pairs are, too, even among equal costs.

    Returns:
        Queries of the batch (image * N + query) and objects, image by image in the order of the queries; and
        1 for each matrix with a cost that is NaN or infinite, whose pairs mean nothing.
    """
    return _launch(cost, counts, _block(cost, counts))


def define_assignment(cost: Float[np.ndarray, "t N"]) -> tuple[Int64[np.ndarray, " m"], ...]:
    """Define the operation for one matrix: objects and queries of the pairs, in the order of the queries."""
    from scipy.optimize import linear_sum_assignment  # not above: a job's --help needs none of it

    objects, queries = linear_sum_assignment(cost)
    by_query = queries.argsort()
    return objects[by_query], queries[by_query]


def assignment_runs(cost: Float[Tensor, "S T N"], counts: Sequence[int]) -> bool:
    """Whether the kernel is wanted, supports these costs and works on their device; says once if not."""
    if not kernels_wanted(cost):
        return False
    if cost.dtype != torch.float32:
        return fall_back(NAME, f"it has no kernel for {cost.dtype}")
    if max(cost.shape[2], *counts, 1) > MOST:
        return fall_back(NAME, f"more than {MOST} queries, or objects of an image, do not fit a program")
    block = _block(cost, counts)
    return trusted(NAME, (cost.device, block), partial(_check, cost.device, block))


def _block(cost: Tensor, counts: Sequence[int]) -> int:
    return max(32, 1 << (max(cost.shape[2], *counts, 1) - 1).bit_length())


def _launch(cost: Tensor, counts: Sequence[int], block: int) -> tuple[Tensor, Tensor]:
    from qdet.kernels.programs import assignment as programs

    stages, total, queries = cost.shape
    matched = [min(n, queries) for n in counts]
    starts = [[0, *accumulate(each)][:-1] for each in (counts, matched)]
    images = torch.tensor([list(counts), *starts], dtype=torch.int32).to(cost.device, non_blocking=True)
    pairs = cost.new_empty(2, stages, sum(matched), dtype=torch.int64)
    broken = cost.new_zeros(stages, len(counts), dtype=torch.int32)
    if pairs.numel():
        program: Any = programs.assign  # as it is written; Triton adds the grid
        sizes = total, queries, pairs.shape[2], block
        grid, warps = (stages, len(counts)), max(1, block // _PER_WARP)
        program[grid](cost.contiguous(), images, *pairs.unbind(), broken, *sizes, num_warps=warps)
    return pairs, broken


def _check(device: torch.device, block: int) -> None:
    """Compare with the definition on wide and tall matrices with many equal costs.

    Raises:
        ArithmeticError: Pairs differ.
    """
    for queries, counts in ((block - 5, (4, 0, 9)), (3, (7, 2))):
        cost = wave(2, sum(counts), queries, like=torch.empty(0, device=device))
        cost[0] = (3 * cost[0]).round()
        pairs, broken = _launch(cost, counts, block)
        wanted = [
            np.stack((found + image * queries, objects + at))
            for stage in cost.cpu().numpy()
            for image, (at, n) in enumerate(zip(accumulate((0, *counts)), counts, strict=False))
            for objects, found in (define_assignment(stage[at : at + n]),)
        ]
        if broken.any() or not np.array_equal(np.concatenate(wanted, 1), pairs.flatten(1).cpu().numpy()):
            raise ArithmeticError("pairs differ from scipy's")
