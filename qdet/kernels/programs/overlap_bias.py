"""AdaMixer's bias of overlaps, one program for each image and block of pairs, with all heads."""

from typing import no_type_check

import triton
import triton.language as tl

from qdet.kernels.programs.narrow import round_to


@no_type_check
@triton.jit
def _larger(a, b):
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)


@no_type_check
@triton.jit
def _smaller(a, b):
    return tl.minimum(a, b, propagate_nan=tl.PropagateNan.ALL)


@no_type_check
@triton.jit
def _read_corners(boxes, query, queries):
    """Return left, top, right and bottom of some queries of an image."""
    place, there = boxes + query * 4, query < queries
    left, top = tl.load(place, there, 0.0), tl.load(place + 1, there, 0.0)
    return left, top, tl.load(place + 2, there, 0.0), tl.load(place + 3, there, 0.0)


@no_type_check
@triton.jit
def _log_iof(boxes, queries, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Return rows and columns of a block of pairs, which of them are there, and the log of their IoF."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    own = boxes + tl.program_id(2).to(tl.int64) * queries * 4
    left, top, right, bottom = _read_corners(own, row, queries)
    area = _larger(right - left, 0.0) * _larger(bottom - top, 0.0)
    other_left, other_top, other_right, other_bottom = _read_corners(own, column, queries)
    width = _smaller(right[:, None], other_right[None, :]) - _larger(left[:, None], other_left[None, :])
    height = _smaller(bottom[:, None], other_bottom[None, :]) - _larger(top[:, None], other_top[None, :])
    covered = _larger(width, 0.0) * _larger(height, 0.0)
    inside = (row < queries)[:, None] & (column < queries)[None, :]
    return (
        row.to(tl.int64)[:, None],
        column[None, :],
        inside,
        tl.log(covered / _larger(area, 1e-6)[:, None] + 1e-7),
    )


@no_type_check
@triton.jit
def forward(
    boxes, scale, out, queries,
    HEADS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, INTERPRETED: tl.constexpr,
):  # fmt: skip
    """Write the bias of every head."""
    row, column, inside, value = _log_iof(boxes, queries, ROWS, COLUMNS)
    first = tl.program_id(2).to(tl.int64) * HEADS
    for head in range(HEADS):
        bias = value * tl.load(scale + head).to(value.dtype)
        place = out + ((first + head) * queries + row) * queries + column
        tl.store(place, round_to(bias, out.dtype.element_ty, INTERPRETED), inside)


@no_type_check
@triton.jit
def backward(
    boxes, grad, parts, queries, by_image, by_head, by_row, by_column,
    HEADS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Write what a block of pairs adds to the gradient of each scale; `by_...` are strides of `grad`."""
    row, column, inside, value = _log_iof(boxes, queries, ROWS, COLUMNS)
    place = grad + tl.program_id(2).to(tl.int64) * by_image + row * by_row + column * by_column
    block = (tl.program_id(2) * tl.num_programs(1) + tl.program_id(1)) * tl.num_programs(0) + tl.program_id(0)
    for head in range(HEADS):
        wanted = tl.load(place + head * by_head, inside, 0.0).to(value.dtype)
        part = tl.sum(tl.sum(tl.where(inside, wanted * value, 0.0), 1), 0)
        tl.store(parts + block * HEADS + head, part)
