"""What every rank holds a copy of."""

from qdet.checkpoint.tensor_digest import combine, digest
from qdet.training.ema import Ema
from qdet.training.engine.sharded_state import ShardedState


def digest_copies(state: ShardedState, ema: Ema) -> int:
    """Return the digest of what must be equal on all ranks.

    Weights, buffers, moments and average with ZeRO-0; all but the moments with 1 and 2.
    """
    copies = [*state.copies(), *ema.averages]
    return int(combine(digest(tensor) for tensor in copies)) if copies else 0
