"""What glibc is told so that memory freed by one pass over images on a CPU is there for the next.

Otherwise large tensors go back to the kernel, which clears pages for those of the next pass. Other
allocators and other systems take no notice.
"""

import ctypes
import os
from collections.abc import Mapping

ONE_KEPT_HEAP = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_TRIM_THRESHOLD_": str(2**33),
}
"""Variables for a process to be started: one heap for all threads, which keeps what is freed."""
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # of glibc's malloc.h


def keep_freed_memory(environment: Mapping[str, str] = os.environ) -> None:
    """Tell the allocator of this process the same, unless a variable of `environment` sets it.

    To be called before there are other threads: their heaps stay apart.
    """
    if any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in environment):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    mallopt(_ARENA_MAX, 1)
    mallopt(_MMAP_THRESHOLD, 2**30)
    mallopt(_TRIM_THRESHOLD, -1)  # never: 8 GiB do not fit into its argument
