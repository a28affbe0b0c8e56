"""Bilinear reading of a level, and its gradient: what sampling programs share.

A level is `height` x `width` rows of a table, from row `first`; rows lie `pitch` numbers apart. Coordinates
are in cells, whole numbers being centres; cells outside of the level read zero. R points, C channels.
"""

from typing import no_type_check

import triton
import triton.language as tl


@no_type_check
@triton.jit
def locate(x, size):
    """Return the cell before each coordinate [R] and the fraction beyond it; far away is just outside."""
    near = tl.where(x == x, tl.minimum(tl.maximum(x, -2.0), size + 1.0), -2.0)
    cell = tl.floor(near)
    return cell.to(tl.int32), tl.where(x == x, near - cell, x)  # a NaN stays one


@no_type_check
@triton.jit
def interpolate(base, x, y, there, height, width, first, pitch, channel, channels):
    """Return the values [R, C] of a level at points [R], of which those `there` count."""
    column, right = locate(x, width)
    line, below = locate(y, height)
    total = tl.zeros((x.shape[0], channel.shape[0]), x.dtype)
    for tap in tl.static_range(4):
        i, j = line + tap // 2, column + tap % 2
        share = (below if tap // 2 else 1 - below) * (right if tap % 2 else 1 - right)
        inside = there & (i >= 0) & (i < height) & (j >= 0) & (j < width)
        row = (first + i * width.to(tl.int32) + j).to(tl.int64)
        mask = inside[:, None] & (channel < channels)[None, :]
        value = tl.load(base + row[:, None] * pitch + channel[None, :], mask, 0.0)
        total += value.to(x.dtype) * share[:, None]
    return total


@no_type_check
@triton.jit
def interpolate_backward(
    table,
    sums,
    base,
    grad,
    weight,
    unit,
    x,
    y,
    there,
    height,
    width,
    first,
    pitch,
    channel,
    channels,
    FIXED: tl.constexpr,
):
    """Add `grad` [R, C] times `weight` [R] to the cells that points read.

    Returns:
        The product [R] of `grad` with what a point reads, and its slopes in x and y.
    """
    column, right = locate(x, width)
    line, below = locate(y, height)
    value, along_x, along_y = tl.zeros_like(x), tl.zeros_like(x), tl.zeros_like(x)
    for tap in tl.static_range(4):
        i, j = line + tap // 2, column + tap % 2
        of_y = below if tap // 2 else 1 - below
        of_x = right if tap % 2 else 1 - right
        inside = there & (i >= 0) & (i < height) & (j >= 0) & (j < width)
        row = (first + i * width.to(tl.int32) + j).to(tl.int64)
        mask = inside[:, None] & (channel < channels)[None, :]
        cell = base + row[:, None] * pitch + channel[None, :]
        product = tl.sum(tl.load(table + cell, mask, 0.0).to(x.dtype) * grad, 1)
        value += product * of_x * of_y
        along_x += product * of_y * (1.0 if tap % 2 else -1.0)
        along_y += product * of_x * (1.0 if tap // 2 else -1.0)
        part = grad * (weight * of_x * of_y)[:, None]
        if FIXED:
            part = round_to_integer(part * unit)
        tl.atomic_add(sums + cell, part, mask, sem="relaxed")
    return value, along_x, along_y


@no_type_check
@triton.jit
def round_to_integer(x):
    """Round halves away from zero."""
    return tl.where(x >= 0, tl.floor(x + 0.5), -tl.floor(0.5 - x)).to(tl.int64)
