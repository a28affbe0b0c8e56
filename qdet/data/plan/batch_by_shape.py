"""Samples of a window cut into batches whose images are of like shape and size.

s batches   G images of a batch
"""

import numpy as np
from jaxtyping import Int64, Integer


def batch_by_shape(
    window: Int64[np.ndarray, "s G"], final_hw: Integer[np.ndarray, "s*G 2"]
) -> Int64[np.ndarray, "s G"]:
    """Cut the samples of a window into batches of like shape.

    Strips of like aspect are walked by area in alternating direction, so that neighbours are alike.

    Args:
        window: Rows, or other numbers in the order of rows.
        final_hw: Their final heights and widths, in the same order.
    """
    h, w = final_hw.T
    strips = max(1, round(np.sqrt(len(window))))  # as many strips as batches in a strip
    strip = np.empty(len(h), dtype=np.int64)
    strip[np.argsort(w / h, kind="stable")] = np.arange(len(h)) * strips // len(h)
    area = np.where(strip % 2, -(h * w), h * w)
    return _separate_duplicates(window.ravel()[np.lexsort((area, strip))].reshape(window.shape))


def _separate_duplicates(batches: Int64[np.ndarray, "s G"]) -> Int64[np.ndarray, "s G"]:
    """Send one of two equal rows in a batch to the next batch, for a row that is not in this one.

    The next batch always has such a row as long as no row comes more than twice: if each of its rows had its
    other copy in this batch, there would be no room left here for two equal ones.
    """
    if len(batches) == 1:
        return batches
    batches = batches.copy()
    ordered = np.sort(batches, axis=1)
    for here in np.flatnonzero((ordered[:, 1:] == ordered[:, :-1]).any(axis=1)):
        there = here + 1 if here + 1 < len(batches) else here - 1
        first = np.unique(batches[here], return_index=True)[1]
        for slot in np.setdiff1d(np.arange(batches.shape[1]), first):
            strange = np.flatnonzero(~np.isin(batches[there], batches[here]))
            other = strange[0 if there > here else -1]
            batches[here, slot], batches[there, other] = batches[there, other], batches[here, slot]
    return batches
