"""Whether the cache has room for the shards that a plan reads from at a time."""

import math

import numpy as np

from qdet.data.plan.epoch import Plan
from qdet.data.shards.shard_set import ShardSet


def warning_of_small_cache(shards: ShardSet, plan: Plan, steps: int) -> str | None:
    """Say how large the cache should be, where it holds less than `steps` steps of the plan read from.

    All workers are counted, for those of a machine share its cache. None where it is large enough, or where
    shards need none.
    """
    limit = shards.files.room
    if limit is None:
        return None
    sizes = np.array([shard["filesize"] for shard in shards.manifest["shardlist"]], dtype=np.int64)
    needed = max(
        int(sizes[np.unique(shards.index.shard[plan.rows[begin : begin + steps]])].sum())
        for begin in range(0, len(plan.rows), steps)
    )
    if needed <= limit:
        return None
    enough = math.ceil(needed / 1e8) / 10
    return (
        f"--data.cache-gb {limit / 1e9:g} is less than the {needed / 1e9:.3g} GB of shards that {steps} "
        f"steps of the plan read from, so that shards are fetched again and again; {enough:g} would do"
    )
