"""An exponential moving average of the weights, of the share of each that a rank holds."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from qdet.checkpoint import Checkpoint, Piece
from qdet.training.engine.sharded_state import ShardedState


class Ema:
    """Averaged weights: average <- decay * average + (1 - decay) * weights after every step.

    Under ZeRO-3 a rank holds (and averages) its own share of each parameter, otherwise all of it. Buffers are
    not averaged. With `decay` 0 nothing is kept and `swapped()` changes nothing.

    The decay warms up as (1 + n) / (10 + n) over the first updates n, so that random initial weights are soon
    forgotten (as in TensorFlow and timm).
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self._named = [(n, p) for n, p in module.named_parameters() if p.requires_grad] if decay else []
        self._average = [_share(p).detach().clone() for _, p in self._named]

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the weights by one step."""
        if not self._named:
            return
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        lerp_ = torch._foreach_lerp_  # pyright: ignore[reportPrivateImportUsage]
        lerp_(self._average, [_share(p) for _, p in self._named], 1 - decay)
        self.updates += 1

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Replace the weights by their average inside a `with`; restore them after it."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @property
    def names(self) -> list[str]:
        """Names of the parameters that are averaged."""
        return [name for name, _ in self._named]

    @property
    def averages(self) -> list[Tensor]:
        """The averages that this rank holds, in the order of their names."""
        return self._average

    def pieces(self, state: ShardedState) -> list[Piece]:
        """Return the part of the average that this rank answers for in a checkpoint, as `average/NAME`."""
        named = zip(self._named, self._average, strict=True)
        found = (state.piece_of("average", name, held) for (name, _), held in named)
        return [piece for piece in found if piece is not None]

    def load(self, saved: Checkpoint, state: ShardedState) -> None:
        """Restore from a checkpoint; if it has no averages, they start from the current weights."""
        if not saved.names("average"):
            return
        for (name, _), held in zip(self._named, self._average, strict=True):
            held.copy_(state.held_part(saved, f"average/{name}", held))
        self.updates = saved.state.ema_updates

    @torch.no_grad()
    def _swap(self) -> None:
        for (_, parameter), average in zip(self._named, self._average, strict=True):
            weights = _share(parameter)
            held = weights.clone()
            weights.copy_(average)
            average.copy_(held)
            _drop_gathered(parameter)


def _drop_gathered(parameter: nn.Parameter) -> None:
    """Make ZeRO-3 gather a parameter anew: DeepSpeed keeps some whole after a forward pass, for the next."""
    if hasattr(parameter, "ds_tensor"):
        parameter.partition()  # pyright: ignore[reportAttributeAccessIssue]  (DeepSpeed's; a no-op if not whole)


def _share(parameter: nn.Parameter) -> Tensor:
    """Return the part of `parameter` that lives on this rank."""
    return getattr(parameter, "ds_tensor", parameter).detach()
