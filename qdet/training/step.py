"""One optimizer step: this rank's passes, the exchange of gradients, and the update where all is finite."""

import math

import torch
from torch import Tensor

from qdet.detectors.detector import Detector
from qdet.errors import DivergedError
from qdet.job import Job
from qdet.losses import Losses, SetLoss, counted_objects, matched_objects
from qdet.training.distributed import World
from qdet.training.ema import Ema
from qdet.training.graceful_stop import Leaving
from qdet.training.health.monitor import Faults
from qdet.training.health.unreadable import Unreadable
from qdet.training.nonfinite.diagnose import Incidents
from qdet.training.nonfinite.skip import Budget, hopeless, poisoned
from qdet.training.optim import lr_factor
from qdet.training.zero import ZeroEngine
from qdet.types import Batch


class StepMaker:
    """Makes the steps of one training. All methods are collective.

    Args:
        job: The job.
        world: The ranks that share each step.
        detector: What is trained.
        criterion: The loss.
        engine: DeepSpeed's engine around the detector.
        ema: The average of its weights.
        faults: Is told what this rank does.
        budget: The steps that were skipped, and how many may be.
        incidents: Looks into them.
        leaving: Whether all workers are to leave.
        unreadable: What could not be read on any of them.
        steps: Steps of the whole training.
        steps_per_epoch: Those of one pass over the data.
    """

    def __init__(
        self,
        job: Job,
        world: World,
        detector: Detector,
        criterion: SetLoss,
        engine: ZeroEngine,
        ema: Ema,
        *,
        faults: Faults,
        budget: Budget,
        incidents: Incidents,
        leaving: Leaving,
        unreadable: Unreadable,
        steps: int,
        steps_per_epoch: int,
    ) -> None:
        self.job, self.world, self.detector, self.criterion = job, world, detector, criterion
        self.engine, self.ema = engine, ema
        self.faults, self.budget, self.incidents = faults, budget, incidents
        self.leaving, self.unreadable = leaving, unreadable
        self.steps, self.steps_per_epoch = steps, steps_per_epoch

    def make(self, step: int, micro_batches: list[Batch]) -> tuple[dict[str, Tensor], float]:
        """Make the step after `step` others from this rank's share of a global batch.

        Returns:
            The terms of this rank's loss, and the norm of the whole gradient. Where that is not finite the
            step was skipped: nothing has changed on any rank.

        Raises:
            DivergedError: More steps were skipped than the job allows.
            ConfigError: A parameter got no gradient where ZeRO-3 needs one.
        """
        # Drawn anew for every step, random numbers need no state of their own in a checkpoint.
        random_seed = (self.job.train.seed * 1_000_003 + step) * 1_009 + self.world.rank
        torch.manual_seed(random_seed)
        factor = lr_factor(step, steps=self.steps, steps_per_epoch=self.steps_per_epoch, optim=self.job.optim)
        divisors = self._divisors(micro_batches)
        self.detector.progress = step / self.steps
        total: dict[str, Tensor] = {}
        norm = math.nan
        for batch in micro_batches:
            losses = self._forward(batch, divisors)
            self._backward(losses)
            self.faults.watchdog.now("optimizer step")
            norm = self.engine.step(factor)
            for name, value in ({"loss": losses.total} | losses.terms).items():
                total[name] = total.get(name, 0) + value.detach() / len(micro_batches)
        loss = float(total["loss"])
        if math.isfinite(norm):
            self.ema.update()
        else:
            self._skip(step, micro_batches, random_seed, divisors, lost=not math.isfinite(loss))
        self.faults.step_done(step + 1, loss if math.isfinite(norm) else math.nan)
        return total, norm

    def _forward(self, batch: Batch, divisors: dict[str, float]) -> Losses:
        with self.faults.forward():
            here = batch.to(self.world.device, non_blocking=True)
            stages = self.engine(here.images, here.sizes_hw)
            try:
                return self.criterion(stages, here.targets, here.sizes_hw, **divisors)
            except DivergedError:  # predictions that are not finite: other ranks are to hear of it in order
                return hopeless(stages)

    def _backward(self, losses: Losses) -> None:
        self.faults.watchdog.now("backward pass")
        self.engine.backward(self.faults.participation.watched(poisoned(losses.total)))
        self.faults.participation.check()

    def _skip(
        self,
        step: int,
        micro_batches: list[Batch],
        random_seed: int,
        divisors: dict[str, float],
        *,
        lost: bool,
    ) -> None:
        with self.faults.watchdog.off("looking for the first bad layer"):
            cause = self.incidents.look_into(
                self.detector,
                micro_batches,
                step=step,
                random_seed=random_seed,
                progress=step / self.steps,
                divisors=divisors,
                lost=lost,
            )
        if self.world.main:
            print(f"step {step + 1} is skipped on all workers: {cause}", flush=True)
        self.budget.spend(step + 1, cause)

    def _divisors(self, micro_batches: list[Batch]) -> dict[str, float]:
        """Return what each rank divides its losses by, as arguments of the loss.

        Gradients are averaged over ranks and micro-batches; dividing by the objects of the whole global batch
        per rank and micro-batch makes the sum of all the loss over that batch's objects, whoever holds them.
        """
        targets, queries = [batch.targets for batch in micro_batches], self.job.detector.queries
        objects, matched, leaving, unreadable, *told = self.world.sum(
            float(sum(counted_objects(t, queries, self.job.loss.per) for t in targets)),
            float(sum(matched_objects(t, queries) for t in targets)),
            self.leaving.told(),
            self.unreadable.told(),
            *self.faults.told(),
        )
        self.leaving.heard(leaving)
        self.unreadable.heard(unreadable)
        self.faults.heard(told)
        passes = self.world.size * len(micro_batches)
        return {"normalizer": max(objects, 1.0) / passes, "matched": matched / passes}
