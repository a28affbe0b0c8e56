"""The learning rate as a pure function of the step, so that a resumed run needs no scheduler state."""

import math

from qdet.job import OptimConfig


def lr_factor(step: int, *, steps: int, steps_per_epoch: int, optim: OptimConfig) -> float:
    """Return the factor on every group's learning rate at `step` (0-based) of `steps`.

    Linear warm-up from `warmup_ratio`, times a half cosine down to zero or a division by ten after each of
    `drop_epochs` (AdaMixer: after epochs 24 and 33 of 36, with 1,000 steps of warm-up).
    """
    factor = 1.0
    if step < optim.warmup_steps:
        done = step / optim.warmup_steps
        factor = optim.warmup_ratio + (1 - optim.warmup_ratio) * done
    if optim.schedule == "cosine":
        return factor * 0.5 * (1 + math.cos(math.pi * min(step / steps, 1.0)))
    return factor * 0.1 ** sum(step >= drop * steps_per_epoch for drop in optim.drop_epochs)
