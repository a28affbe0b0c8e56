"""AdamW over parameter groups chosen by regular expressions on parameter names, and its schedule."""

import math
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from qdet.errors import ConfigError
from qdet.job import Job, OptimConfig


def parameter_groups(
    named_parameters: Iterable[tuple[str, nn.Parameter]],
    optim: OptimConfig,
    frozen: Collection[str] = (),
) -> list[dict[str, object]]:
    """Sort the trainable parameters into groups of equal learning rate and weight decay.

    The first expression of `lr_multipliers` that matches a name wins. Each group has `base_lr`, from which
    the schedule computes `lr`, and the `names` of its parameters in order.

    Raises:
        ConfigError: An expression matches no trainable parameter, nor one that the job itself has `frozen`;
            it would silently do nothing.
    """
    groups: dict[tuple[float, float], dict[str, list]] = {}
    unused = {pattern for pattern, _ in optim.lr_multipliers} | set(optim.no_decay)
    for name, parameter in named_parameters:
        if not parameter.requires_grad:
            if name in frozen:
                unused = {p for p in unused if not re.search(p, name)}
            continue
        found = [(p, factor) for p, factor in optim.lr_multipliers if re.search(p, name)]
        exempt = [p for p in optim.no_decay if re.search(p, name)]
        unused -= {p for p, _ in found} | set(exempt)
        key = (optim.lr * (found[0][1] if found else 1.0), 0.0 if exempt else optim.weight_decay)
        group = groups.setdefault(key, {"params": [], "names": []})
        group["params"].append(parameter)
        group["names"].append(name)
    if unused:
        raise ConfigError(
            "--optim.lr-multipliers and --optim.no-decay: no trainable parameter matches "
            + ", ".join(repr(p) for p in sorted(unused))
        )
    return [
        {"params": g["params"], "names": g["names"], "lr": lr, "base_lr": lr, "weight_decay": decay}
        for (lr, decay), g in groups.items()
    ]


class FusedAdamW(torch.optim.AdamW):
    """AdamW in one kernel, which also divides the gradients and may leave everything as it is.

    torch reads both attributes in every step, as its `GradScaler` sets them; no number goes to the host.
    """

    grad_scale: Float[Tensor, ""] | None = None
    """What gradients are divided by."""
    found_inf: Float[Tensor, ""] | None = None
    """1 where the next step is to change nothing, else 0."""


def build_optimizer(module: nn.Module, optim: OptimConfig, frozen: Collection[str] = ()) -> FusedAdamW:
    """Build AdamW for the trainable parameters of `module`; `frozen` are those that the job has frozen.

    Fused: one kernel reads and writes each number once, on GPUs and CPUs.
    """
    groups = parameter_groups(module.named_parameters(), optim, frozen)
    return FusedAdamW(groups, betas=optim.betas, fused=True)


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


@dataclass(frozen=True)
class Schedule:
    """How long a job trains, and what follows from the number of a step."""

    job: Job
    steps_per_epoch: int

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole training."""
        return self.job.train.steps or self.job.train.epochs * self.steps_per_epoch

    def lr_factor(self, step: int) -> float:
        """Return the factor on every learning rate at `step` (0-based)."""
        per_epoch = self.steps_per_epoch
        optim, batch_size = self.job.optim, self.job.train.batch_size
        factor = lr_factor(step, steps=self.steps, steps_per_epoch=per_epoch, optim=optim)
        return factor * optim.batch_factor(batch_size)

    def random_seed(self, step: int, number: int) -> int:
        """Return the seed of random numbers at `step`: anew in every step, so none are saved.

        Args:
            step: The step.
            number: The rank; the micro-batch of the global batch where these are fixed (`train.canonical`).
        """
        return (self.job.train.seed * 1_000_003 + step) * 1_009 + number
