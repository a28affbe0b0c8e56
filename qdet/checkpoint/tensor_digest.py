"""Digests of tensors, computed where they are: equal bits give equal digests, and a flipped bit another one.

A word of a tensor is multiplied by an odd number that depends on its place, and all are added modulo 2^64
(multilinear hashing: Lemire and Kaser, The Computer Journal 57(11), 2014). Sums of integers do not depend on
their order, so that every device gives the same digest. It is no defence against intent.
"""

from collections.abc import Iterable

import numpy as np
import torch
from jaxtyping import Int64, Shaped
from torch import Tensor

TOGETHER = 2**18
"""Words that are multiplied at once."""
_FACTOR = 0x5851F42D4C957F2D  # odd, so that no digest is lost by it
_WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_keys: dict[torch.device, Int64[Tensor, " w"]] = {}


@torch.no_grad()
def digest(values: Shaped[Tensor, "..."]) -> Int64[Tensor, ""]:
    """Return the digest of a tensor's elements in order, on its device."""
    words = values.detach().contiguous().reshape(-1).view(_WORDS[values.element_size()])
    keys = _keys_on(values.device)
    found = torch.zeros((), dtype=torch.int64, device=values.device)
    for part in words.split(TOGETHER):
        found = found * _FACTOR + (part.long() * keys[: len(part)]).sum()
    return found


@torch.no_grad()
def combine(digests: Iterable[Int64[Tensor, ""]]) -> Int64[Tensor, ""]:
    """Return one digest of several, in order, on their device."""
    return digest(torch.stack([*digests]))


def _keys_on(device: torch.device) -> Int64[Tensor, " w"]:
    if device not in _keys:
        drawn = np.random.Generator(np.random.Philox(key=[0, 0])).integers(0, 2**63, TOGETHER)
        _keys[device] = torch.from_numpy(drawn * 2 + 1).to(device)
    return _keys[device]
