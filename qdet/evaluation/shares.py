"""Categories shared among ranks: COCO's numbers of a class depend on the boxes of that class alone.

k categories   n detections
"""

import heapq

import numpy as np
from jaxtyping import Int64


def count_categories(
    found: Int64[np.ndarray, " n"], categories: Int64[np.ndarray, " k"]
) -> Int64[np.ndarray, " k"]:
    """Count detections by category, ids ascending; those of others are left out."""
    known = found[np.isin(found, categories)]
    return np.bincount(np.searchsorted(categories, known), minlength=len(categories))


def share_categories(
    categories: Int64[np.ndarray, " k"], detections: Int64[np.ndarray, " k"], ranks: int
) -> list[Int64[np.ndarray, " _"]]:
    """Return the ids of each rank's categories, ascending, with about as many detections for each rank.

    The largest category left goes to the rank with the fewest detections (Graham, "Bounds on Multiprocessing
    Timing Anomalies", 1969: the fullest has at most 4/3 of what the best division would give it).

    Args:
        categories: Ids.
        detections: How many there are of each, the same on every rank.
        ranks: How many ranks there are.
    """
    shares: list[list[int]] = [[] for _ in range(ranks)]
    filled = [(0, rank) for rank in range(ranks)]
    for place in np.argsort(-detections, kind="stable").tolist():
        size, rank = heapq.heappop(filled)
        shares[rank].append(int(categories[place]))
        heapq.heappush(filled, (size + int(detections[place]) + 1, rank))
    return [np.array(sorted(share), np.int64) for share in shares]
