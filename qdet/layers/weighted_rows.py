"""Weighted sums of rows of a table: how points in feature maps are read on a CPU.

A bilinear sample of several levels is a sum of four cells per level. One `embedding_bag` over the cells of
all levels reads each cell as one row, where `grid_sample` reads channel by channel, level by level.

    R rows of the table   n sums   k terms of a sum   c channels   L levels   p points
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from qdet.layers.eager import computes_on_a_cpu


def rows_are_faster(table: Tensor) -> bool:
    """Whether `sum_rows` takes `table`: on a CPU, outside of tracing and exporting."""
    return computes_on_a_cpu(table) and table.dtype in (torch.float32, torch.float64)


def sum_rows(
    table: Float[Tensor, "R c"], rows: Int[Tensor, "n k"], shares: Float[Tensor, "n k"]
) -> Float[Tensor, "n c"]:
    """Sum, for every n, the `rows` of `table` by their `shares`. Gradients are the same bits in every run."""
    return _SumRows.apply(table, rows, shares)


def corner_cells(
    x: Float[Tensor, "L p"], y: Float[Tensor, "L p"], sizes_hw: Sequence[tuple[int, int]]
) -> tuple[Int[Tensor, "4 L p"], Float[Tensor, "4 L p"]]:
    """Return the four cells around every point, numbered through all levels, and their bilinear shares.

    Whole numbers are centres of cells. Cells outside of the map have no share; a NaN makes all shares NaN.
    """
    size = x.new_tensor(sizes_hw)
    columns, of_x = _neighbours(x, size[:, 1:])
    lines, of_y = _neighbours(y, size[:, :1])
    counts = [0, *(height * width for height, width in sizes_hw[:-1])]
    first = torch.tensor(counts, dtype=torch.int32).cumsum(0, dtype=torch.int32).unsqueeze(1)
    begin = lines * size[:, 1:].int() + first
    cells = (begin.unsqueeze(1) + columns).flatten(0, 1)
    return cells, (of_y.unsqueeze(1) * of_x).flatten(0, 1)


def _neighbours(
    at: Float[Tensor, "L p"], size: Float[Tensor, "L 1"]
) -> tuple[Int[Tensor, "2 L p"], Float[Tensor, "2 L p"]]:
    """Return the two cells around a coordinate, inside the map, and their shares."""
    low = at.detach().floor()
    beyond = at - low
    low = torch.minimum(low.nan_to_num(-2.0).clamp_(min=-2.0), size)  # never an index out of bounds
    both = torch.stack((low, low + 1))
    inside = (both >= 0) & (both < size)
    shares = torch.stack((1 - beyond, beyond)) * inside
    return torch.minimum(both.clamp_(min=0), size - 1).int(), shares


class _SumRows(torch.autograd.Function):
    """`embedding_bag` whose backward pass is another one.

    That of PyTorch sorts the rows and adds term by term. Here the terms are grouped by row, in linear time,
    as the transpose of a sparse matrix is, and summed as a forward pass would.
    """

    @staticmethod
    def forward(table: Tensor, rows: Tensor, shares: Tensor) -> Tensor:
        return F.embedding_bag(rows, table, per_sample_weights=shares, mode="sum")

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        table, rows, shares = ctx.saved_tensors
        of_table = of_shares = None
        if ctx.needs_input_grad[0]:
            of_table = _sum_by_row(grad.contiguous(), rows, shares, len(table))
        if ctx.needs_input_grad[2]:
            of_shares = _products(grad.contiguous(), table, rows)
        return of_table, None, of_shares


def _sum_by_row(grad: Tensor, rows: Tensor, shares: Tensor, count: int) -> Float[Tensor, "R c"]:
    from scipy.sparse import csr_matrix  # not above: a job's --help needs none of it

    n, k = rows.shape
    first = np.arange(0, n * k + 1, k, dtype=np.int32)
    terms = (shares.numpy().reshape(-1), rows.numpy().reshape(-1), first)
    by_row = csr_matrix(terms, shape=(n, count)).tocsc()
    sums, begin, weights = (torch.from_numpy(a) for a in (by_row.indices, by_row.indptr[:-1], by_row.data))
    return F.embedding_bag(sums, grad, begin, per_sample_weights=weights, mode="sum")


def _products(grad: Tensor, table: Tensor, rows: Tensor) -> Float[Tensor, "n k"]:
    """Return the product of every sum's gradient with each of its rows."""
    n, k = rows.shape
    begin = torch.arange(0, n * k, k, dtype=rows.dtype)
    owner = torch.arange(n, dtype=rows.dtype).repeat_interleave(k)
    products = torch.ops.aten._embedding_bag_per_sample_weights_backward
    return products(grad, table, rows.reshape(-1), begin, owner, 0).view(n, k)
