"""Cheapest assignment, one program for each stage and image: shortest augmenting paths with duals.

Crouse, IEEE TAES 2016, in the steps of scipy's `linear_sum_assignment`: its sums in float64 in its order, and
its choice among equally short paths, so that pairs are the same even where assignments cost the same.
Rows are the shorter side of a matrix, objects or queries. Everything is kept by column, in registers: the
dual `u` of a row stands at the column that the row owns.
"""

from typing import no_type_check

import triton
import triton.language as tl


@no_type_check
@triton.jit
def assign(
    cost, images, out_queries, out_objects, broken, objects_of_all, queries, pairs_of_all, BLOCK: tl.constexpr
):
    """Write an image's pairs by query, and whether a cost is not finite; BLOCK is at least either side.

    `images` holds the number of objects, the first object and the first pair of each.
    """
    stage, image = tl.program_id(0).to(tl.int64), tl.program_id(1)
    count = tl.num_programs(1)
    objects = tl.load(images + image)
    first = tl.load(images + count + image).to(tl.int64)
    pairs = stage * pairs_of_all + tl.load(images + 2 * count + image)
    wide = objects <= queries
    rows, columns = tl.minimum(objects, queries), tl.maximum(objects, queries)
    row_step, column_step = tl.where(wide, queries, 1), tl.where(wide, 1, queries)
    column = tl.arange(0, BLOCK)
    inside = column < columns
    at = cost + (stage * objects_of_all + first) * queries + column * column_step
    u, v = tl.zeros((BLOCK,), tl.float64), tl.zeros((BLOCK,), tl.float64)
    owner = tl.full((BLOCK,), -1, tl.int32)
    bad = column < 0
    row = tl.full((), 0, tl.int32)
    while row < rows:  # Triton 3.6 interprets no `range` of a tensor beside NumPy 2.4
        length, before = tl.full((BLOCK,), float("inf"), tl.float64), tl.zeros((BLOCK,), tl.int32)
        place = tl.where(inside, columns - 1 - column, -1)  # in scipy's list of columns left; -1 is not in it
        i, u_i, shortest = row, tl.full((), 0.0, tl.float64), tl.full((), 0.0, tl.float64)
        left, chosen = columns, inside
        while i >= 0:  # until a column without an owner is reached
            x = tl.load(at + i * row_step, inside, 0.0)
            finite = tl.abs(x) < float("inf")
            bad = bad | ~finite
            r = shortest + tl.where(finite, x, 0.0).to(tl.float64) - u_i - v
            nearer = (place >= 0) & (r < length)
            length, before = tl.where(nearer, r, length), tl.where(nearer, i, before)
            shortest = tl.min(tl.where(place >= 0, length, float("inf")), 0)
            equal = (place >= 0) & (length == shortest)
            rank = tl.where(equal, tl.where(owner < 0, BLOCK + place, BLOCK - 1 - place), -1)
            best = tl.max(rank, 0)  # of the columns without an owner the last one, else the first
            chosen = rank == best
            i, u_i = tl.sum(tl.where(chosen, owner, 0), 0), tl.sum(tl.where(chosen, u, 0.0), 0)
            left -= 1
            filled = tl.where(i < 0, best - BLOCK, BLOCK - 1 - best)  # by the last in the list
            place = tl.where(chosen, -1, tl.where(place == left, filled, place))
        gain = tl.where(inside & (place < 0), shortest - length, 0.0)
        u, v = tl.where(owner < 0, u, u + gain), v - gain
        while i != row:  # every row of the path takes the column after it
            i = tl.sum(tl.where(chosen, before, 0), 0)
            its_own = owner == i
            u = tl.where(chosen, tl.where(i == row, shortest, tl.sum(tl.where(its_own, u, 0.0), 0)), u)
            owner, chosen = tl.where(chosen, i, owner), its_own
        row += 1
    matched = owner >= 0
    slot = tl.where(wide, tl.cumsum(matched.to(tl.int32), 0) - 1, owner)
    query, found = tl.where(wide, column, owner), tl.where(wide, owner, column)
    tl.store(out_queries + pairs + slot, image.to(tl.int64) * queries + query, matched)
    tl.store(out_objects + pairs + slot, first + found, matched)
    tl.store(broken + stage * count + image, tl.max(bad.to(tl.int32), 0))
