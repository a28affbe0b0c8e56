"""Memory of batches, reused once no array or tensor refers to the batch that had it.

Fresh memory is expensive: for 16 COCO images the system finds and zeroes 12,000 pages, which takes a quarter
as long as decoding and resizing them. So memory comes back when the last array or tensor over it goes,
whatever thread that happens in.
"""

from collections import deque

import numpy as np
from jaxtyping import UInt8

KEPT = 8
"""Pieces of memory that wait to be used again; what comes back beyond that is freed."""

_free: deque[np.ndarray] = deque(maxlen=KEPT)


def image_memory(images: int, height: int, width: int) -> UInt8[np.ndarray, "B H W 3"]:
    """Return memory for a batch; what it holds is undefined."""
    size = images * height * width * 3
    return np.asarray(_Loan(_take(size), size)).reshape(images, height, width, 3)


class _Loan:
    """What every view of the memory, tensors included, keeps alive; its end is the end of the batch."""

    def __init__(self, memory: np.ndarray, size: int) -> None:
        self.memory = memory
        self.__array_interface__ = memory[:size].__array_interface__

    def __del__(self) -> None:
        _free.append(self.memory)


def _take(size: int) -> np.ndarray:
    """Waiting memory that is large enough; what is too small is given up, so that all grow to the largest."""
    while _free:
        try:
            memory = _free.pop()
        except IndexError:  # another thread took the last one
            break
        if len(memory) >= size:
            return memory
    return np.empty(size, dtype=np.uint8)
