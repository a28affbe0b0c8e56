"""Bits that flip in a worker of the job that chaos breaks, where a gradient is about to be checked.

The launcher asks by a file; the first worker whose next gradient is checked answers it. A flip elsewhere is
found at the next comparison of copies, or not at all: docs/reliability.md says which.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qdet.launching.chaos.requests import Requests

if TYPE_CHECKING:
    from torch import Tensor, nn

    from qdet.training.corruption.verify import Check

REQUESTS = "QDET_CHAOS_FLIPS"
"""Variable with the path of the file that asks for a flip."""
KINDS = ("activations", "gradients", "weights")


def install() -> None:
    """Have this process answer requests, if its environment names a file for them."""
    if REQUESTS not in os.environ:
        return
    from qdet.training.corruption.verify import Check

    requests, sound = Requests(Path(os.environ[REQUESTS])), Check.watching

    @contextmanager
    def watching(check: "Check", number: int) -> Iterator[None]:
        turn, rank = check.turn, check.verifier.world.rank
        mine = (turn.checked, turn.number) == (rank, number)
        with ExitStack() as stack:
            if mine and (kind := requests.claim(KINDS)):
                stack.callback(_inject(check.verifier.detector, kind))
            with sound(check, number):
                yield

    setattr(Check, "watching", watching)  # noqa: B010  (pyright would compare the names of arguments)


def _inject(detector: "nn.Module", kind: str) -> Callable[[], None]:
    """Flip one bit, now or in what is computed next; return what ends it."""
    import torch

    trained = [p for p in detector.parameters() if p.requires_grad]
    layer = next(m for m in detector.modules() if isinstance(m, torch.nn.LayerNorm))
    once = _Once()
    if kind == "weights":
        _flip_bit(getattr(layer.weight, "ds_tensor", layer.weight))  # with ZeRO-3 this rank's share of it
        return lambda: None
    if kind == "gradients":
        return trained[0].register_hook(once).remove

    def flip(_module: "nn.Module", _inputs: Any, output: Any) -> Any:
        return once(output)

    return layer.register_forward_hook(flip).remove


class _Once:
    """Returns what it is given first with a flipped bit, and None after that: unchanged."""

    def __init__(self) -> None:
        self._done = False

    def __call__(self, values: "Tensor") -> Any:
        if self._done:
            return None
        self._done = True
        wrong = values.contiguous().clone()
        _flip_bit(wrong)
        return wrong


def _flip_bit(values: "Tensor") -> None:
    """Flip the highest bit of the mantissa of a float32 tensor's first number."""
    import torch

    with torch.no_grad():
        words = values.detach().view(-1)[:1].view(torch.int32)
        words ^= 1 << 22
