"""AdaMixer's 3D sampling, one program for each image, query and group.

A tile of points and channels stays in registers over all levels and taps; a tap of 64 channels in bf16 is one
line of 128 bytes. The backward pass reads the taps once more and saves nothing.
"""

from typing import no_type_check

import triton
import triton.language as tl

from qdet.kernels.programs.bilinear import interpolate, interpolate_backward


@no_type_check
@triton.jit
def _read_points(points, at, there):
    place = points + at * 3
    return tl.load(place, there, 0.0), tl.load(place + 1, there, 0.0), tl.load(place + 2, there, 0.0)


@no_type_check
@triton.jit
def _softmax_over_levels(z, table, LEVELS: tl.constexpr, TAU: tl.constexpr):
    """Return the largest logit of every point, and the sum of exp of the rest above it."""
    largest = tl.zeros_like(z) - float("inf")
    for level in tl.static_range(LEVELS):
        distance = z - tl.load(table + 5 * level + 4)
        largest = tl.maximum(largest, -(distance * distance) / TAU)
    total = tl.zeros_like(z)
    for level in tl.static_range(LEVELS):
        distance = z - tl.load(table + 5 * level + 4)
        total += tl.exp(-(distance * distance) / TAU - largest)
    return largest, total


@no_type_check
@triton.jit
def forward(
    tokens, points, table, out, queries, cells, channels, count,
    GROUPS: tl.constexpr, POINTS: tl.constexpr, CHANNELS: tl.constexpr, LEVELS: tl.constexpr,
    TAU: tl.constexpr,
):  # fmt: skip
    """Sample `count` points of `channels` each; POINTS and CHANNELS are the next powers of two."""
    program = tl.program_id(0).to(tl.int64)  # (image * queries + query) * GROUPS + group
    point, channel = tl.arange(0, POINTS), tl.arange(0, CHANNELS)
    there = point < count
    at = program * count + point
    x, y, z = _read_points(points, at, there)
    largest, total = _softmax_over_levels(z, table, LEVELS, TAU)
    base = tokens + program // (GROUPS * queries) * cells * (GROUPS * channels) + program % GROUPS * channels
    result = tl.zeros((POINTS, CHANNELS), x.dtype)
    for level in tl.static_range(LEVELS):
        height, width = tl.load(table + 5 * level), tl.load(table + 5 * level + 1)
        first, stride = tl.load(table + 5 * level + 2).to(tl.int32), tl.load(table + 5 * level + 3)
        distance = z - tl.load(table + 5 * level + 4)
        share = tl.exp(-(distance * distance) / TAU - largest) / total
        values = interpolate(
            base,
            x / stride - 0.5,
            y / stride - 0.5,
            there,
            height,
            width,
            first,
            GROUPS * channels,
            channel,
            channels,
        )
        result += values * share[:, None]
    mask = there[:, None] & (channel < channels)[None, :]
    tl.store(out + at[:, None] * channels + channel[None, :], result.to(out.dtype.element_ty), mask)


@no_type_check
@triton.jit
def backward(
    tokens, points, table, grad, sums, d_points, unit, queries, cells, channels, count,
    GROUPS: tl.constexpr, POINTS: tl.constexpr, CHANNELS: tl.constexpr, LEVELS: tl.constexpr,
    TAU: tl.constexpr, FIXED: tl.constexpr,
):  # fmt: skip
    """Add gradients of the tokens to `sums`, and write those of the points.

    With weights s_l = softmax of -d_l^2 / tau, the slope in z is sum_l s_l v_l (k_l - k), k_l = -2 d_l / tau
    and k its mean by s; v_l is the product of the gradient with what level l reads.
    """
    program = tl.program_id(0).to(tl.int64)
    point, channel = tl.arange(0, POINTS), tl.arange(0, CHANNELS)
    there = point < count
    at = program * count + point
    x, y, z = _read_points(points, at, there)
    mask = there[:, None] & (channel < channels)[None, :]
    wanted = tl.load(grad + at[:, None] * channels + channel[None, :], mask, 0.0).to(x.dtype)
    scale = tl.load(unit)
    largest, total = _softmax_over_levels(z, table, LEVELS, TAU)
    base = program // (GROUPS * queries) * cells * (GROUPS * channels) + program % GROUPS * channels
    dx, dy, dz = tl.zeros_like(x), tl.zeros_like(x), tl.zeros_like(x)
    mean_value, mean_slope = tl.zeros_like(x), tl.zeros_like(x)
    for level in tl.static_range(LEVELS):
        height, width = tl.load(table + 5 * level), tl.load(table + 5 * level + 1)
        first, stride = tl.load(table + 5 * level + 2).to(tl.int32), tl.load(table + 5 * level + 3)
        distance = z - tl.load(table + 5 * level + 4)
        share = tl.exp(-(distance * distance) / TAU - largest) / total
        value, along_x, along_y = interpolate_backward(
            tokens, sums, base, wanted, share, scale, x / stride - 0.5, y / stride - 0.5, there,
            height, width, first, GROUPS * channels, channel, channels, FIXED,
        )  # fmt: skip
        slope = -2.0 * distance / TAU
        dx += share * along_x / stride
        dy += share * along_y / stride
        dz += share * value * slope
        mean_value += share * value
        mean_slope += share * slope
    place = d_points + at * 3
    tl.store(place, dx, there)
    tl.store(place + 1, dy, there)
    tl.store(place + 2, dz - mean_value * mean_slope, there)
