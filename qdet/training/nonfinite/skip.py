"""Skipped steps: where a loss or gradient is not finite on any rank, no rank updates its weights.

The decision costs no collective of its own. All ranks see the norm of the whole gradient, which is computed
anyway; a non-finite loss is made to show in it. Only the count of steps then advances, and the learning rate
with it: weights, their average and AdamW's state, with its count of updates, stay as they were.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from qdet.checkpoint import TrainState
from qdet.errors import DivergedError
from qdet.losses import Losses
from qdet.training.observer import Observer
from qdet.types import Predictions

IN_A_ROW = 3
"""Consecutive skipped steps that end a run: the next would be no better."""
REMEDIES = (
    "lower --optim.lr or --optim.clip-norm, lengthen --optim.warmup-steps, or try --train.precision fp32"
)


def nan_grad_if_nonfinite(loss: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """Return `loss`, whose gradient is NaN throughout if it is not finite itself.

    A loss can be infinite while its gradient is finite. A finite loss is multiplied by one, which changes no
    bit.
    """
    return loss * torch.where(loss.detach().isfinite(), 1.0, torch.nan)


def nonfinite_loss(stages: Sequence[Predictions]) -> Losses:
    """Return a NaN loss for non-finite predictions, which matching rejects.

    Its backward pass reaches every parameter that any loss reaches, so this rank takes part in all
    collectives.
    """
    everything = sum(p.logits.float().sum() + p.boxes_xyxy.sum() for p in stages)
    return Losses(torch.as_tensor(everything) * torch.nan, {})


class SkippedSteps(Observer):
    """The skipped steps of a run, and how many there may be.

    Args:
        max_skips: How many in the whole run; 0 ends it at the first.
    """

    def __init__(self, max_skips: int) -> None:
        self.max_skips = max_skips
        self.steps: list[int] = []
        """All of them, in order, counted from 1."""

    def record(self, step: int, cause: str) -> None:
        """Count the skipped `step`; `cause` is what is known of it.

        Raises:
            DivergedError: It was one too many.
        """
        self.steps.append(step)
        last = self.steps[-IN_A_ROW:]
        if last == list(range(step - IN_A_ROW + 1, step + 1)):
            raise DivergedError(
                f"training diverged: steps {', '.join(map(str, last))} were skipped in a row, since their "
                f"loss or gradient was not finite. The last: {cause}. Before resuming, {REMEDIES}"
            )
        if len(self.steps) > self.max_skips:
            raise DivergedError(
                f"training diverged: {len(self.steps)} steps were skipped, since their loss or gradient "
                f"was not finite, and --train.max-skips allows {self.max_skips}. The last: {cause}. Before "
                f"resuming, {REMEDIES}"
            )

    def state(self) -> Mapping[str, Any]:
        """Return the skipped steps."""
        return {"skipped": tuple(self.steps)}

    def restore(self, saved: TrainState) -> None:
        """Count the steps skipped before the checkpoint."""
        self.steps = list(saved.skipped)

    def metrics(self) -> dict[str, float]:
        """Return how many steps were skipped in the whole run."""
        return {"train/skipped_steps": float(len(self.steps))}
