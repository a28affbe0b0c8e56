"""One optimizer step: this rank's passes, the averaging of gradients, and the update if all is finite."""

import math

import torch
from torch import Tensor

from qdet.errors import DivergedError
from qdet.losses import Losses
from qdet.training.exchange import StepExchange
from qdet.training.health.monitor import HealthMonitor
from qdet.training.learner import Learner
from qdet.training.nonfinite.diagnose import Diagnosis, StepInputs
from qdet.training.nonfinite.skip import nan_grad_if_nonfinite, nonfinite_loss
from qdet.training.optim import Schedule
from qdet.types import Batch


class StepMaker:
    """Makes the steps of one training. All methods are collective.

    Args:
        schedule: How long the job trains.
        learner: What learns.
        exchange: What the ranks tell each other.
        health: What this rank measures of itself.
        diagnosis: Looks for the cause of non-finite steps.
    """

    def __init__(
        self,
        schedule: Schedule,
        learner: Learner,
        exchange: StepExchange,
        health: HealthMonitor,
        diagnosis: Diagnosis,
    ) -> None:
        self.schedule, self.learner, self.exchange = schedule, learner, exchange
        self.health, self.diagnosis = health, diagnosis
        self.world = learner.engine.world

    def make(self, step: int, micro_batches: list[Batch]) -> tuple[dict[str, Tensor], float]:
        """Make the step after `step` others from this rank's share of a global batch.

        Returns:
            The terms of this rank's loss, and the norm of the whole gradient. If that is not finite, the step
            was skipped: no rank has changed anything.

        Raises:
            DivergedError: More steps were skipped than the job allows.
            DataError: More images were unreadable than the job allows.
            ConfigError: A parameter got no gradient, which ZeRO-3 needs.
        """
        random_seed = self.schedule.random_seed(step, self.world.rank)
        torch.manual_seed(random_seed)
        factor, progress = self.schedule.lr_factor(step), step / self.schedule.steps
        divisors = self.exchange_step_stats(micro_batches)
        self.learner.detector.progress = progress
        total: dict[str, Tensor] = {}
        whole: Tensor | None = None
        for batch in micro_batches:
            losses = self._forward(batch, divisors)
            self._backward(losses)
            self.health.watchdog.now("optimizer step")
            whole = self.learner.engine.step(factor)
            for name, value in ({"loss": losses.total} | losses.terms).items():
                total[name] = total.get(name, 0) + value.detach() / len(micro_batches)
        loss, norm = float(total["loss"]), math.nan if whole is None else float(whole)
        if math.isfinite(norm):
            self.learner.ema.update()
        else:
            inputs = StepInputs(step, micro_batches, random_seed, progress, divisors)
            self._skip(inputs, loss_is_finite=math.isfinite(loss))
        self.exchange.loss.observe(step + 1, loss if math.isfinite(norm) else math.nan)
        self.exchange.times.observe(*self.health.step_done())
        return total, norm

    def exchange_step_stats(self, micro_batches: list[Batch]) -> dict[str, float]:
        """Make the exchange of a step; return what to divide its losses by, as arguments of the loss."""
        self.health.watchdog.now("collective: objects")
        self.exchange.divisors.observe(micro_batches)
        self.exchange.sum_over_ranks()
        return self.exchange.divisors.arguments

    def _forward(self, batch: Batch, divisors: dict[str, float]) -> Losses:
        with self.health.forward():
            here = batch.to(self.world.device, non_blocking=True)
            stages = self.learner.engine(here.images, here.sizes_hw)
            try:
                return self.learner.criterion(stages, here.targets, here.sizes_hw, **divisors)
            except DivergedError:  # non-finite predictions: skip the step together with the others
                return nonfinite_loss(stages)

    def _backward(self, losses: Losses) -> None:
        self.health.watchdog.now("backward pass")
        unused = self.health.unused_parameters
        self.learner.engine.backward(unused.watch(nan_grad_if_nonfinite(losses.total)))
        unused.check()

    def _skip(self, inputs: StepInputs, *, loss_is_finite: bool) -> None:
        with self.health.watchdog.off("looking for the first bad layer"):
            cause = self.diagnosis.diagnose(self.learner.detector, inputs, loss_is_finite=loss_is_finite)
        number = inputs.step + 1
        if self.world.main:
            print(f"step {number} is skipped on all workers: {cause}", flush=True)
        self.exchange.skipped.record(number, cause)
