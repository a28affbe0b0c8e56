"""One optimizer step: this rank's passes, the averaging of gradients, and the update if all is finite.

The host stays ahead of the device. Loss and norm of a step are read once the forward pass of the next has
been launched; the device itself skips the update where they are not finite. Nothing else that waits for the
device is in a step but the copy of the matching costs.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from qdet.errors import DivergedError
from qdet.layers.denoising.apply import denoise_batch
from qdet.losses import Losses
from qdet.training.corruption.verify import Check, Verifier
from qdet.training.exchange import StepExchange
from qdet.training.health.monitor import HealthMonitor
from qdet.training.learner import Learner
from qdet.training.memory.out_of_memory import explain_out_of_memory
from qdet.training.nonfinite.diagnose import Diagnosis, StepInputs
from qdet.training.nonfinite.skip import nan_grad_if_nonfinite, nonfinite_loss
from qdet.training.optim import Schedule
from qdet.training.read_later import read_later
from qdet.types import Batch


@dataclass(frozen=True)
class Made:
    """The outcome of a step."""

    terms: dict[str, Tensor]
    """The terms of this rank's loss, on the device: means over its micro-batches; with `train.canonical`
    those of each micro-batch of the global batch, zero where other ranks have it."""
    norm: float
    """The norm of the whole gradient. If it is not finite, the step was skipped: no rank changed anything."""


@dataclass(frozen=True)
class _Launched:
    """A step whose outcome the host has not read."""

    inputs: StepInputs
    terms: dict[str, Tensor]
    read: Callable[[], list[float]]
    """Returns the loss, or that of every fixed micro-batch, and the norm."""


class StepMaker:
    """Makes the steps of one training. All methods are collective.

    Args:
        schedule: How long the job trains.
        learner: What learns.
        exchange: What the ranks tell each other.
        health: What this rank measures of itself.
        diagnosis: Looks for the cause of non-finite steps.
        verifier: Has gradients computed twice.
    """

    def __init__(
        self,
        schedule: Schedule,
        learner: Learner,
        exchange: StepExchange,
        health: HealthMonitor,
        diagnosis: Diagnosis,
        verifier: Verifier,
    ) -> None:
        self.schedule, self.learner, self.exchange = schedule, learner, exchange
        self.health, self.diagnosis, self.verifier = health, diagnosis, verifier
        self.world, self._leaves = learner.engine.world, schedule.job.train.micro_batches
        self._train = schedule.job.train
        self._launched: _Launched | None = None

    def make(self, step: int, micro_batches: list[Batch]) -> Made | None:
        """Make the step after `step` others from this rank's share of a global batch.

        Returns:
            The outcome of the step before, unless `settle` has returned it.

        Raises:
            DivergedError: More steps were skipped than the job allows.
            DataError: More images were unreadable than the job allows.
            ConfigError: A parameter got no gradient, which ZeRO-3 needs, or the device has no memory for a
                part of the step, which is named.
            CorruptionError: A rank computed another gradient than it must, and does so again.
        """
        factor, progress = self.schedule.lr_factor(step), step / self.schedule.steps
        self.learner.detector.progress = progress
        meeting = _Meeting(self, micro_batches)
        check = self.verifier.begin(step, len(micro_batches))
        total = self._make_passes(step, micro_batches, meeting, check)
        while check is not None and not self._passed(check, micro_batches, meeting()):
            self.learner.engine.discard()
            self.verifier.remember_own(step)
            total = self._make_passes(step, micro_batches, meeting, check)
        self.health.watchdog.now("optimizer step")
        with explain_out_of_memory("optimizer update", micro_batches[-1], self._train):
            norm = self.learner.engine.step(factor)
        self.verifier.remember_own(step + 1)
        assert norm is not None, "the last micro-batch ends the step"
        seed = self.schedule.random_seed(step, self._numbers(len(micro_batches))[0])
        inputs = StepInputs(step, micro_batches, seed, progress, meeting())
        outcome = (*total["loss"].reshape(-1), norm)
        self._launched = _Launched(inputs, total, read_later(outcome, self.world.device))
        self.exchange.times.observe(*self.health.step_done())
        return meeting.before

    def settle(self) -> Made | None:
        """Read the outcome of the last step, average its weights or look for why it was skipped. Collective.

        Returns:
            It; None if that was returned before.

        Raises:
            DivergedError: More steps were skipped than the job allows.
        """
        launched, self._launched = self._launched, None
        if launched is None:
            return None
        *losses, norm = launched.read()
        if math.isfinite(norm):
            self.learner.ema.update()
        else:
            self._skip(launched.inputs, loss_is_finite=all(map(math.isfinite, losses)))
        number = launched.inputs.step + 1
        self.exchange.loss.observe(number, losses if math.isfinite(norm) else [math.nan] * len(losses))
        return Made(launched.terms, norm)

    def exchange_step_stats(self, micro_batches: Sequence[Batch]) -> dict[str, float]:
        """Make the exchange of a step; return what to divide its losses by, as arguments of the loss."""
        self.health.watchdog.now("collective: objects")
        self.exchange.divisors.observe(micro_batches)
        self.exchange.sum_over_ranks()
        return self.exchange.divisors.arguments

    def _make_passes(
        self, step: int, micro_batches: Sequence[Batch], meeting: "_Meeting", check: Check | None
    ) -> dict[str, Tensor]:
        """Make all passes of a step, up to the last backward pass; return the terms of the loss."""
        total: dict[str, Tensor] = {}
        numbers = self._numbers(len(micro_batches))
        for i, (number, batch) in enumerate(zip(numbers, micro_batches, strict=True)):
            if i > 0:
                self.learner.engine.step(0.0)  # ends a pass, and updates nothing yet
            if i == 0 or self._leaves:
                torch.manual_seed(self.schedule.random_seed(step, number))
            with nullcontext() if check is None else check.watching(i):
                losses = self._forward(batch, meeting)
                with explain_out_of_memory("backward pass", batch, self._train):
                    self._backward(losses)
            for name, value in ({"loss": losses.total} | losses.terms).items():
                total[name] = total.get(name, 0) + self._spread(value.detach(), number, len(numbers))
        return total

    def _passed(self, check: Check, micro_batches: Sequence[Batch], divisors: dict[str, float]) -> bool:
        with self.health.watchdog.off("a gradient computed again"):
            return check.passed(micro_batches, divisors)

    def _numbers(self, passes: int) -> Sequence[int]:
        """Return what numbers the random numbers of each pass: its micro-batch where fixed, or the rank."""
        rank = self.world.rank
        return range(rank * passes, (rank + 1) * passes) if self._leaves else [rank] * passes

    def _spread(self, value: Tensor, number: int, passes: int) -> Tensor:
        """Return a term of a pass, to be added to those of others; with a place of its own where fixed."""
        if not self._leaves:
            return value / passes
        spread = value.new_zeros(self._leaves)
        spread[number] = value
        return spread

    def _forward(self, batch: Batch, divisors: Callable[[], dict[str, float]]) -> Losses:
        """Run the detector, then ask for the divisors, then compare."""
        with self.health.forward(), explain_out_of_memory("forward pass", batch, self._train):
            here = batch.to(self.world.device, non_blocking=True)
            criterion = self.learner.criterion
            extra, truth = denoise_batch(self.learner.detector.denoising, here, criterion.classes)
            stages = self.learner.engine(here.images, here.sizes_hw, *([] if extra is None else [extra]))
        arguments = divisors()
        with self.health.forward(), explain_out_of_memory("matching and loss", batch, self._train):
            try:
                return criterion(stages, here.targets, here.sizes_hw, truth=truth, **arguments)
            except DivergedError:  # non-finite predictions: skip the step together with the others
                return nonfinite_loss(stages)

    def _backward(self, losses: Losses) -> None:
        self.health.watchdog.now("backward pass")
        unused = self.health.unused_parameters
        self.learner.engine.backward(unused.watch(nan_grad_if_nonfinite(losses.total)))
        unused.check()

    def _skip(self, inputs: StepInputs, *, loss_is_finite: bool) -> None:
        devices = [self.world.device.index or 0] if self.world.device.type == "cuda" else []
        # The next step may have begun: its random numbers continue as if nothing had come between.
        with self.health.watchdog.off("looking for the first bad layer"), torch.random.fork_rng(devices):
            cause = self.diagnosis.diagnose(self.learner.detector, inputs, loss_is_finite=loss_is_finite)
        number = inputs.step + 1
        if self.world.main:
            print(f"step {number} is skipped on all workers: {cause}", flush=True)
        self.exchange.skipped.record(number, cause)


class _Meeting:
    """What the host does once in a step, while the device runs the forward pass."""

    def __init__(self, maker: StepMaker, micro_batches: Sequence[Batch]) -> None:
        self._maker, self._micro_batches = maker, micro_batches
        self._divisors: dict[str, float] | None = None
        self.before: Made | None = None
        """The outcome of the step before."""

    def __call__(self) -> dict[str, float]:
        """Settle the step before and exchange the numbers of this one; return what to divide losses by."""
        if self._divisors is None:
            self.before = self._maker.settle()
            self._divisors = self._maker.exchange_step_stats(self._micro_batches)
        return self._divisors
