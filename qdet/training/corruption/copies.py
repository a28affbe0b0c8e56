"""What every rank holds a copy of, and what one rank alone holds."""

from torch import Tensor

from qdet.checkpoint.tensor_digest import combine, digest
from qdet.training.ema import Ema
from qdet.training.engine.sharded_state import ShardedState


def digest_copies(state: ShardedState, ema: Ema) -> int:
    """Return the digest of what must be equal on all ranks.

    Weights, buffers, moments and average with ZeRO-0; all but the moments with 1 and 2; buffers with 3.
    """
    copies = [*state.copies(), *(ema.averages if state.stage < 3 else ())]
    return int(combine(digest(tensor) for tensor in copies)) if copies else 0


def digest_own(state: ShardedState) -> Tensor | None:
    """Return the digest of this rank's share of weights and moments, on the device; None with ZeRO-0."""
    own = state.own()
    return combine(digest(tensor) for tensor in own) if own else None
