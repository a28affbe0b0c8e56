"""Sigmoid focal loss, one program for each block of queries: a row of logits is read once and summed.

With s = -x where the class is there and x elsewhere, and p = sigmoid(s), a logit's loss is p^gamma times
-log(1 - p), and its slope in s is p^gamma (p - gamma (1 - p) log(1 - p)).
"""

from typing import no_type_check

import triton
import triton.language as tl


@no_type_check
@triton.jit
def _read(logits, targets, rows, classes, ROWS: tl.constexpr, CLASSES: tl.constexpr):
    """Return offsets of a block, which of them are there, its logits in float32 or wider, and its targets."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, CLASSES)
    at = row[:, None] * classes + column[None, :]
    inside = (row < rows)[:, None] & (column < classes)[None, :]
    x = tl.load(logits + at, inside, 0.0)
    x = x if x.dtype == tl.float64 else x.to(tl.float32)
    return row, at, inside, x, tl.load(targets + at, inside, 0) != 0


@no_type_check
@triton.jit
def _terms(s, GAMMA: tl.constexpr):
    """Return p, 1 - p, p^gamma and -log(1 - p) of p = sigmoid(s), exact far from 0 as well."""
    e = tl.exp(-tl.abs(s))
    u = 1.0 + e
    lost = u == 1.0  # e was rounded away, and log(1 + e) is e
    log_u = tl.where(lost, e, tl.log(u) * (e / tl.where(lost, 1.0, u - 1.0)))
    p, rest = tl.where(s >= 0, 1.0 / u, e / u), tl.where(s >= 0, e / u, 1.0 / u)
    power = tl.where(s == s, 1.0, s) if GAMMA == 0.0 else tl.exp(GAMMA * (tl.minimum(s, 0.0) - log_u))
    return p, rest, power, tl.maximum(s, 0.0) + log_u


@no_type_check
@triton.jit
def forward(
    logits, targets, out, rows, classes,
    ROWS: tl.constexpr, CLASSES: tl.constexpr, ALPHA: tl.constexpr, GAMMA: tl.constexpr,
):  # fmt: skip
    """Write the loss of every query, summed over `classes`; CLASSES are the next power of two."""
    row, _, inside, x, there = _read(logits, targets, rows, classes, ROWS, CLASSES)
    _, _, power, cross_entropy = _terms(tl.where(there, -x, x), GAMMA)
    loss = tl.where(there, ALPHA, 1.0 - ALPHA) * power * cross_entropy
    tl.store(out + row, tl.sum(tl.where(inside, loss, 0.0), 1), row < rows)


@no_type_check
@triton.jit
def backward(
    logits, targets, grad, d_logits, rows, classes,
    ROWS: tl.constexpr, CLASSES: tl.constexpr, ALPHA: tl.constexpr, GAMMA: tl.constexpr,
):  # fmt: skip
    """Write the gradient of every logit."""
    row, at, inside, x, there = _read(logits, targets, rows, classes, ROWS, CLASSES)
    p, rest, power, cross_entropy = _terms(tl.where(there, -x, x), GAMMA)
    slope = power * (p + GAMMA * rest * cross_entropy)
    of_row = tl.load(grad + row, row < rows, 0.0).to(x.dtype)
    d_x = tl.where(there, -ALPHA, 1.0 - ALPHA) * slope * of_row[:, None]
    tl.store(d_logits + at, d_x.to(d_logits.dtype.element_ty), inside)
