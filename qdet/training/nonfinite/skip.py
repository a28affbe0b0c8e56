"""Steps that are not made: where a loss or gradient is not finite on any worker, none of them makes the step.

The decision costs no collective of its own. All workers see the norm of the whole gradient, which is computed
anyway; a loss that is not finite is made to show in it. Nothing then changes but the count of steps: weights,
their average and AdamW's state (its count of updates, too) stay as they were, and the learning rate goes on.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from qdet.errors import DivergedError
from qdet.losses import Losses
from qdet.types import Predictions

IN_A_ROW = 3
"""Skipped steps one after the other that end a run: the next would be no better."""
REMEDIES = (
    "lower --optim.lr or --optim.clip-norm, lengthen --optim.warmup-steps, or try --train.precision fp32"
)


def poisoned(loss: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """Return `loss`, with a gradient that is NaN throughout where it is not finite itself.

    A loss can be infinite while its gradient is not. Others are multiplied by one, which changes no bit.
    """
    return loss * torch.where(loss.detach().isfinite(), 1.0, torch.nan)


def hopeless(stages: Sequence[Predictions]) -> Losses:
    """Return a loss for predictions that are not finite, which no matching takes.

    Its backward pass reaches whatever any loss reaches, so that this worker still meets the others.
    """
    everything = sum(p.logits.float().sum() + p.boxes_xyxy.sum() for p in stages)
    return Losses(torch.as_tensor(everything) * torch.nan, {})


class Budget:
    """How many steps a run may skip.

    Args:
        most: In the whole run; 0 ends it at the first.
        skipped: The steps that were skipped before, in order.
    """

    def __init__(self, most: int, skipped: Sequence[int] = ()) -> None:
        self.most = most
        self.skipped = list(skipped)
        """Every step that was skipped, in order: part of what a run is, and of its checkpoints."""

    def spend(self, step: int, cause: str) -> None:
        """Count the skipped `step`, of which `cause` is what is known.

        Raises:
            DivergedError: It was one too many.
        """
        self.skipped.append(step)
        last = self.skipped[-IN_A_ROW:]
        if last == list(range(step - IN_A_ROW + 1, step + 1)):
            raise DivergedError(
                f"training diverged: steps {', '.join(map(str, last))} were skipped one after the other, "
                f"since their loss or gradient was not finite. Of the last: {cause}. To go on, {REMEDIES}"
            )
        if len(self.skipped) > self.most:
            raise DivergedError(
                f"training diverged: {len(self.skipped)} steps were skipped, since their loss or gradient "
                f"was not finite, and --train.max-skips allows {self.most}. Of the last: {cause}. To go on, "
                f"{REMEDIES}"
            )
