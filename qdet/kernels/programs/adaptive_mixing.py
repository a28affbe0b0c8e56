"""AdaMixer's adaptive mixing, one program for each image, query and group.

Points, channels and both matrices stay on the chip between the two products and norms. The backward pass
reads the inputs once more and computes both norms again. Blocks are padded with zeros, which no product
sees; norms count and centre the numbers that are there.
"""

from typing import no_type_check

import triton
import triton.language as tl

from qdet.kernels.programs.narrow import multiply, round_to


@no_type_check
@triton.jit
def _place(row, column, rows, columns):
    """Return the offsets of a matrix [rows, columns], and which of a block are inside."""
    inside = (row < rows)[:, None] & (column < columns)[None, :]
    return row[:, None] * columns + column[None, :], inside


@no_type_check
@triton.jit
def _lay_out(
    points, channels, points_out, POINTS: tl.constexpr, CHANNELS: tl.constexpr, POINTS_OUT: tl.constexpr
):
    """Return, of this program: offsets of x, M_c, M_s and the result, each with what is inside."""
    program = tl.program_id(0).to(tl.int64)
    point, channel, mixed = tl.arange(0, POINTS), tl.arange(0, CHANNELS), tl.arange(0, POINTS_OUT)
    at_x, in_x = _place(point, channel, points, channels)
    at_c, in_c = _place(channel, channel, channels, channels)
    at_s, in_s = _place(mixed, point, points_out, points)
    at_out, in_out = _place(mixed, channel, points_out, channels)
    matrices = program * (channels * channels + points_out * points)
    at_x, at_c = at_x + program * points * channels, at_c + matrices
    at_s, at_out = at_s + matrices + channels * channels, at_out + program * points_out * channels
    return at_x, in_x, at_c, in_c, at_s, in_s, at_out, in_out


@no_type_check
@triton.jit
def _normalize(x, inside, count, EPS: tl.constexpr):
    """Return x over both axes with mean 0 and variance 1, and what it was divided by, inverted."""
    centred = tl.where(inside, x - tl.sum(tl.sum(x, 1), 0) / count, 0.0)
    inverse = 1.0 / tl.sqrt(tl.sum(tl.sum(centred * centred, 1), 0) / count + EPS)
    return centred * inverse, inverse


@no_type_check
@triton.jit
def _normalize_backward(grad, normal, inverse, inside, count):
    along = tl.sum(tl.sum(grad * normal, 1), 0) / count
    return tl.where(inside, (grad - tl.sum(tl.sum(grad, 1), 0) / count - normal * along) * inverse, 0.0)


@no_type_check
@triton.jit
def _rectify(x):
    return tl.where(x <= 0, 0.0, x)  # a NaN stays one


@no_type_check
@triton.jit
def _mix(x, by, spatial, in_x, in_out, count, count_out, EPS: tl.constexpr, INTERPRETED: tl.constexpr):
    """Return both norms, each with what it was divided by, inverted, and what the second product read."""
    hidden, hidden_inverse = _normalize(multiply(x, by, INTERPRETED), in_x, count, EPS)
    rectified = round_to(_rectify(hidden), x.dtype, INTERPRETED)
    result, inverse = _normalize(multiply(spatial, rectified, INTERPRETED), in_out, count_out, EPS)
    return hidden, hidden_inverse, rectified, result, inverse


@no_type_check
@triton.jit
def forward(
    sampled, weights, out, points, channels, points_out,
    POINTS: tl.constexpr, CHANNELS: tl.constexpr, POINTS_OUT: tl.constexpr,
    EPS: tl.constexpr, INTERPRETED: tl.constexpr,
):  # fmt: skip
    """Mix `points` of `channels` along channels, then to `points_out`; capitals are what a block holds."""
    kind: tl.constexpr = sampled.dtype.element_ty
    at_x, in_x, at_c, in_c, at_s, in_s, at_out, in_out = _lay_out(
        points, channels, points_out, POINTS, CHANNELS, POINTS_OUT
    )
    x, by = tl.load(sampled + at_x, in_x, 0.0), tl.load(weights + at_c, in_c, 0.0)
    spatial = tl.load(weights + at_s, in_s, 0.0)
    _, _, _, result, _ = _mix(
        x, by, spatial, in_x, in_out, points * channels, points_out * channels, EPS, INTERPRETED
    )
    tl.store(out + at_out, round_to(_rectify(result), kind, INTERPRETED), in_out)


@no_type_check
@triton.jit
def backward(
    sampled, weights, grad, d_sampled, d_weights, points, channels, points_out,
    POINTS: tl.constexpr, CHANNELS: tl.constexpr, POINTS_OUT: tl.constexpr,
    EPS: tl.constexpr, INTERPRETED: tl.constexpr,
):  # fmt: skip
    """Write the gradients of `sampled` and `weights`; every number has one writer."""
    kind: tl.constexpr = sampled.dtype.element_ty
    at_x, in_x, at_c, in_c, at_s, in_s, at_out, in_out = _lay_out(
        points, channels, points_out, POINTS, CHANNELS, POINTS_OUT
    )
    x, by = tl.load(sampled + at_x, in_x, 0.0), tl.load(weights + at_c, in_c, 0.0)
    spatial = tl.load(weights + at_s, in_s, 0.0)
    hidden, hidden_inverse, rectified, result, inverse = _mix(
        x, by, spatial, in_x, in_out, points * channels, points_out * channels, EPS, INTERPRETED
    )
    wanted = tl.where(result <= 0, 0.0, tl.load(grad + at_out, in_out, 0.0).to(result.dtype))
    d_out = _normalize_backward(wanted, result, inverse, in_out, points_out * channels)
    d_out = round_to(d_out, kind, INTERPRETED)
    d_spatial = multiply(d_out, tl.trans(rectified), INTERPRETED)
    tl.store(d_weights + at_s, round_to(d_spatial, kind, INTERPRETED), in_s)
    d_hidden = tl.where(hidden <= 0, 0.0, multiply(tl.trans(spatial), d_out, INTERPRETED))
    d_x = _normalize_backward(d_hidden, hidden, hidden_inverse, in_x, points * channels)
    d_x = round_to(d_x, kind, INTERPRETED)
    d_by = multiply(tl.trans(x), d_x, INTERPRETED)
    tl.store(d_weights + at_c, round_to(d_by, kind, INTERPRETED), in_c)
    d_sample = multiply(d_x, tl.trans(by), INTERPRETED)
    tl.store(d_sampled + at_x, round_to(d_sample, kind, INTERPRETED), in_x)
