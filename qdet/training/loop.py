"""Training from the first step to the last: one readable `train(job)`.

It runs alone in a process, under torchrun and inside a Ray worker with no change: ranks and device come from
`distributed.join`, checkpoints and progress go to a `Reporter`, metrics to a `Tracker`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from qdet.backbones import load_pretrained
from qdet.checkpoint import Retention, RunFolder, open_folder
from qdet.job import Job
from qdet.tracking import Tracker
from qdet.training.checkpointing.compatibility import check_categories, check_world
from qdet.training.checkpointing.contents import Description, Past, pieces
from qdet.training.checkpointing.resume import Start
from qdet.training.checkpointing.save import Saving
from qdet.training.distributed import World, join, set_deterministic
from qdet.training.ema import Ema
from qdet.training.evaluate import evaluate_shards, log_pictures
from qdet.training.graceful_stop import Leaving
from qdet.training.health.monitor import Faults
from qdet.training.health.unreadable import Unreadable
from qdet.training.meter import Meter
from qdet.training.nonfinite.diagnose import Incidents
from qdet.training.nonfinite.skip import Budget
from qdet.training.reporting import Reporter, Run
from qdet.training.step import StepMaker
from qdet.training.streams import accounting_of, train_stream
from qdet.training.zero import ZeroEngine


@dataclass(frozen=True)
class Result:
    """How training ended."""

    step: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Those of the last evaluation, such as `val/AP`; on rank 0."""
    left: bool = False
    """Somebody asked it to leave before its last step; a checkpoint is there to go on from."""


def train(job: Job, *, run: Run, reporter: Reporter, tracker: Tracker) -> Result:
    """Train `job` to its last step, from its last checkpoint where there is one. Collective.

    Raises:
        QdetError: The job, its shards or a checkpoint cannot be used as they are.
    """
    set_deterministic(job.train.deterministic)
    world = join(job.train.accelerator, timeout=job.train.timeout)
    if world.device.type == "cpu":
        torch.set_num_threads(job.train.cpus_per_worker)
    training = _Training(job, world, run, reporter, tracker)
    try:
        with training.faults:
            return training.to_the_end()
    except BaseException:
        training.saving.leave()
        raise
    finally:
        training.incidents.close()


class _Training:
    """The state of one training: what is learned, and how far it is."""

    def __init__(self, job: Job, world: World, run: Run, reporter: Reporter, tracker: Tracker) -> None:
        check_world(job, world.size)
        self.job, self.world, self.reporter, self.tracker = job, world, reporter, tracker
        self.train_shards, self.val_shards = job.data.open_train(), job.data.open(job.data.val)
        check_categories(self.train_shards, self.val_shards)
        self.stream = train_stream(job, self.train_shards, world)
        self.steps = total_steps(job, self.stream.steps_per_epoch)
        torch.manual_seed(job.train.seed)
        self.detector = job.detector.build(len(self.train_shards.categories))
        self.criterion = job.loss.build(len(self.train_shards.categories)).to(world.device)
        folder = RunFolder(open_folder(run.store).child(run.name))
        start = Start(job, world, self.train_shards, folder)
        if not start.give_weights(self.detector):
            load_pretrained(self.detector.backbone, job.detector.backbone)
        self.detector.recompute = job.train.activation_checkpointing
        self.engine = ZeroEngine(self.detector, job.train, job.optim, world)
        self.ema = Ema(self.detector, job.optim.ema_decay)
        self.step = start.go_on(self.engine, self.ema)
        past = start.past
        self.faults = Faults(job, world, self.detector, losses=past.losses)
        self.budget = Budget(job.train.max_skips, past.skipped)
        self.stream.bad.learn([past.unreadable])
        self.incidents = Incidents(job, world, criterion=self.criterion, folder=folder.folder)
        self.leaving = Leaving(reporter.leaving)
        self.maker = self._step_maker()
        self.saving = Saving(folder, world, retention(job, self.stream.steps_per_epoch))
        self.description = Description(job, world, self.train_shards, self.saving.attempt)
        if self.step and world.main:
            print(f"going on after step {self.step} of {self.steps}", flush=True)
        self.accounting = accounting_of(self.stream, world, tracker, step=self.step)
        if ledgers := start.ledgers():
            self.accounting.load(*ledgers)
        self.evaluated: dict[str, float] = {}
        self.evaluated_at = -1

    def to_the_end(self) -> Result:
        """Run the remaining steps, evaluating and saving on the way."""
        job, meter = self.job, Meter(self.job, self.steps, self.stream.steps_per_epoch)
        self.engine.train()
        for micro_batches in meter.waiting(self.faults.waiting(self.stream.steps(self.step, self.steps))):
            self.accounting.record(micro_batches)
            terms, norm = self.maker.make(self.step, micro_batches)
            self.step += 1
            meter.add(terms, norm)
            if self.step % job.train.log_every == 0 or self.step == self.steps:
                self._log(meter)
            if self._due(self.stream.steps_per_epoch) or self.step == self.steps:
                self.accounting.settle(self.step)
            if self._due(job.train.eval_every * self.stream.steps_per_epoch) or self.step == self.steps:
                meter.pause()
                self._evaluate()
            if self._save_is_due() or self._going_away():
                meter.pause()
                self._save()
            if self.leaving.agreed and self.step < self.steps:
                return self._left()
        self._finish()
        if not self.evaluated:  # every step was done before: a finished run was started again
            self._evaluate()
        return Result(self.step, self.evaluated)

    def _left(self) -> Result:
        """See the checkpoint written that this run is gone on with."""
        with self.faults.watchdog.off("the checkpoint to leave with"):
            self.saving.wait(at_end=True)
        if self.world.main:
            print(f"asked to leave: stopped after step {self.step} of {self.steps}", flush=True)
        return Result(self.step, self.evaluated, left=True)

    def _going_away(self) -> bool:
        """True where this training is to leave, or a machine of its workers is about to be taken away."""
        looks = self.step % self.job.train.log_every == 0
        return self.leaving.agreed or (looks and self.reporter.preempted())

    def _due(self, every: int) -> bool:
        return every > 0 and self.step % every == 0

    def _log(self, meter: Meter) -> None:
        progress, metrics = meter.read(self.step, self.world)
        metrics |= {"train/skipped_steps": float(len(self.budget.skipped))} | self.faults.metrics()
        if self.world.main:
            self.reporter.progress(progress)
            self.tracker.metrics(metrics, self.step)

    def _evaluate(self) -> None:
        """Measure AP of the averaged weights, or of the weights where no average is kept."""
        self.engine.eval()
        with self.ema.swapped():
            forward = self.faults.evaluating(self.engine)
            metrics, rows = evaluate_shards(self.detector, forward, self.val_shards, self.job, self.world)
        self.engine.train()
        self.evaluated, self.evaluated_at = metrics.as_dict("val/"), self.step
        self.reporter.evaluated(self.step, self.evaluated)
        if self.world.main:
            self.tracker.metrics(self.evaluated, self.step)
            self.tracker.table(metrics.class_rows(), f"per_class/step_{self.step:06d}.json")
            log_pictures(self.tracker, self.val_shards, rows, self.job.eval.pictures, self.step)

    def _save_is_due(self) -> bool:
        """True where the job wants a checkpoint, and where one may turn out to be the best."""
        train, epoch = self.job.train, self.stream.steps_per_epoch
        evaluated = train.keep_best > 0 and self.evaluated_at == self.step
        regular = self._due(train.checkpoint_every) or self._due(train.keep_every * epoch)
        return regular or evaluated or self.step == self.steps

    def _save(self) -> None:
        """Have a checkpoint written while training goes on."""
        state, ema, ledger = self.engine.state, self.ema, self.accounting.state()
        metrics = self.evaluated if self.evaluated_at == self.step else {}
        past = Past(self.budget.skipped, self.faults.losses(), self.stream.bad.reasons)
        with self.faults.watchdog.off("checkpoint"):
            stall = self.saving.save(
                self.step,
                lambda: pieces(state, ema, ledger, self.world.rank),
                lambda: self.description.of(self.step, state, ema, ledger, metrics, past),
            )
        if self.world.main:
            self.tracker.metrics({"perf/checkpoint_stall": stall}, self.step)

    def _finish(self) -> None:
        """See the last checkpoint written, and log its model."""
        with self.faults.watchdog.off("the last checkpoint"):
            self.saving.wait(at_end=True)
            if self.world.main:
                self.saving.give_model(self.tracker)

    def _step_maker(self) -> StepMaker:
        return StepMaker(
            self.job,
            self.world,
            self.detector,
            self.criterion,
            self.engine,
            self.ema,
            faults=self.faults,
            budget=self.budget,
            incidents=self.incidents,
            leaving=self.leaving,
            unreadable=Unreadable(self.stream.bad, self.world),
            steps=self.steps,
            steps_per_epoch=self.stream.steps_per_epoch,
        )


def total_steps(job: Job, steps_per_epoch: int) -> int:
    """Return how many optimizer steps a job makes."""
    return job.train.steps or job.train.epochs * steps_per_epoch


def retention(job: Job, steps_per_epoch: int) -> Retention:
    """Return which of its checkpoints a job keeps."""
    train = job.train
    return Retention(
        last=train.keep_checkpoints, best=train.keep_best, every_steps=train.keep_every * steps_per_epoch
    )
