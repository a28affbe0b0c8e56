"""Multi-scale deformable attention, one program for each image, head and block of queries.

The sum of a block of queries stays in registers over all levels, points and taps; samples are never written.
The backward pass reads the taps once more and saves nothing.
"""

from typing import no_type_check

import triton
import triton.language as tl

from qdet.kernels.programs.bilinear import interpolate, interpolate_backward


@no_type_check
@triton.jit
def _place(queries, cells, channels, blocks, HEADS: tl.constexpr, QUERIES: tl.constexpr):
    """Return a program's rows of the result, which of them are there, and where its values begin."""
    program = tl.program_id(0).to(tl.int64)  # (image * HEADS + head) * blocks + block
    image, head = program // (HEADS * blocks), program // blocks % HEADS
    query = program % blocks * QUERIES + tl.arange(0, QUERIES)
    row = (image * queries + query) * HEADS + head
    return row, query < queries, image * cells * (HEADS * channels) + head * channels


@no_type_check
@triton.jit
def _read_level(row):
    """Return height, width and first cell of a level."""
    return tl.load(row), tl.load(row + 1), tl.load(row + 2).to(tl.int32)


@no_type_check
@triton.jit
def _read_point(points, weights, at, there, height, width):
    """Return x and y in cells, and the weight."""
    x, y = tl.load(points + 2 * at, there, 0.0), tl.load(points + 2 * at + 1, there, 0.0)
    return x * width - 0.5, y * height - 0.5, tl.load(weights + at, there, 0.0)


@no_type_check
@triton.jit
def forward(
    value, points, weights, table, out, queries, cells, channels, blocks,
    HEADS: tl.constexpr, QUERIES: tl.constexpr, POINTS: tl.constexpr, CHANNELS: tl.constexpr,
    LEVELS: tl.constexpr,
):  # fmt: skip
    """Sum POINTS of every level by their weights; CHANNELS are the next power of two of `channels`."""
    row, there, begin = _place(queries, cells, channels, blocks, HEADS, QUERIES)
    channel = tl.arange(0, CHANNELS)
    result = tl.zeros((QUERIES, CHANNELS), points.dtype.element_ty)
    for level in tl.static_range(LEVELS):
        height, width, first = _read_level(table + 5 * level)
        for point in range(POINTS):
            at = (row * LEVELS + level) * POINTS + point
            x, y, weight = _read_point(points, weights, at, there, height, width)
            values = interpolate(
                value + begin, x, y, there, height, width, first, HEADS * channels, channel, channels
            )
            result += values * weight[:, None]
    mask = there[:, None] & (channel < channels)[None, :]
    tl.store(out + row[:, None] * channels + channel[None, :], result.to(out.dtype.element_ty), mask)


@no_type_check
@triton.jit
def backward(
    value, points, weights, table, grad, sums, d_points, d_weights, unit, queries, cells, channels, blocks,
    HEADS: tl.constexpr, QUERIES: tl.constexpr, POINTS: tl.constexpr, CHANNELS: tl.constexpr,
    LEVELS: tl.constexpr, FIXED: tl.constexpr,
):  # fmt: skip
    """Add gradients of the values to `sums`, and write those of the points and weights."""
    row, there, begin = _place(queries, cells, channels, blocks, HEADS, QUERIES)
    channel, scale = tl.arange(0, CHANNELS), tl.load(unit)
    mask = there[:, None] & (channel < channels)[None, :]
    wanted = tl.load(grad + row[:, None] * channels + channel[None, :], mask, 0.0)
    wanted = wanted.to(points.dtype.element_ty)
    for level in tl.static_range(LEVELS):
        height, width, first = _read_level(table + 5 * level)
        for point in range(POINTS):
            at = (row * LEVELS + level) * POINTS + point
            x, y, weight = _read_point(points, weights, at, there, height, width)
            product, along_x, along_y = interpolate_backward(
                value, sums, begin, wanted, weight, scale, x, y, there,
                height, width, first, HEADS * channels, channel, channels, FIXED,
            )  # fmt: skip
            tl.store(d_weights + at, product, there)
            tl.store(d_points + 2 * at, weight * along_x * width, there)
            tl.store(d_points + 2 * at + 1, weight * along_y * height, there)
