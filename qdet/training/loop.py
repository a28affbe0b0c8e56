"""Training from the first step to the last: one readable `train(job)`.

It runs unchanged alone in a process, under torchrun and inside a Ray worker: ranks and device come from
`distributed.join`, checkpoints and progress go to a `Reporter`, metrics to a `Tracker`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch

from qdet.checkpoint import Retention, RunFolder, open_folder
from qdet.job import Job
from qdet.kernels.choice import choose_kernels
from qdet.storage.network import patient
from qdet.tracking import Tracker
from qdet.training.beginning.recorder import BeginningRecorder, observe_beginning
from qdet.training.beginning.same_data import check_same_data
from qdet.training.checkpointing.compatibility import check_categories, check_world
from qdet.training.checkpointing.contents import Checkpoints, Snapshot
from qdet.training.checkpointing.model_log import log_models
from qdet.training.checkpointing.resume import Start
from qdet.training.checkpointing.save import CheckpointWriter
from qdet.training.corruption.verify import Verifier
from qdet.training.distributed import World, join, set_deterministic
from qdet.training.engine.precision import settle_precision
from qdet.training.engine.stage import settle_stage
from qdet.training.evaluate import Evaluator
from qdet.training.exchange import StepExchange
from qdet.training.health.crowded import CrowdedImages
from qdet.training.health.monitor import HealthMonitor
from qdet.training.hooks.callbacks import Callbacks, Ended
from qdet.training.hooks.calling import calling
from qdet.training.learner import build_learner
from qdet.training.memory.auto_batch import settle_batch
from qdet.training.meter import Meter
from qdet.training.nonfinite.diagnose import Diagnosis
from qdet.training.optim import Schedule
from qdet.training.reporting import Reporter, Run
from qdet.training.step import StepMaker
from qdet.training.stopping.pause import Pause
from qdet.training.streams import build_accounting, build_stream, load_largest, warn_of_missing_objects


@dataclass(frozen=True)
class Result:
    """How training ended."""

    step: int
    steps: int
    """Steps of the whole training."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Those of the last evaluation, such as `val/AP`; on rank 0."""
    stopped: bool = False
    """It stopped before its last step, on request or out of time; it can be resumed from its checkpoint."""
    why: str = ""
    """Why it stopped, if nobody asked for it."""
    paused: bool = False
    """It stopped where its job pauses."""


def train(
    job: Job,
    *,
    run: Run,
    reporter: Reporter,
    tracker: Tracker,
    callbacks: Sequence[Callbacks] = (),
    host: str | None = None,
) -> Result:
    """Train `job` to its last step, from its last checkpoint if there is one. Collective.

    Args:
        job: What to train.
        run: Its name and store.
        reporter: The launcher's.
        tracker: What the run logs to.
        callbacks: A user's, called on rank 0.
        host: What this machine is called in the record of wrong results; None: by its host name.

    Raises:
        QdetError: The job, its shards or a checkpoint cannot be used as they are.
    """
    set_deterministic(job.train.deterministic)
    waits = {"timeout": job.train.timeout, "patience": job.train.join_timeout}
    world = join(job.train.accelerator, **waits, secret=run.join_secret)
    choose_kernels(job.train.kernels, world.device)
    if world.device.type == "cpu":
        torch.set_num_threads(job.train.cpus_per_worker)
    with patient(), calling(reporter, callbacks if world.main else ()) as (called, end):
        training = _Training(job, world, run, called, tracker, host)
        try:
            with training.health:
                result = training.run()
        except BaseException:
            training.checkpoints.writer.close()
            raise
        finally:
            training.maker.diagnosis.close()
            training.beginning.close()
        end(Ended("stopped" if result.stopped else "finished", result.step, result.metrics))
    return result


class _Training:
    """The state of one training: what is learned, and how far it is."""

    def __init__(
        self, job: Job, world: World, run: Run, reporter: Reporter, tracker: Tracker, host: str | None
    ) -> None:
        check_world(job, world.size)
        train_shards, val_shards = job.data.open_train(), job.data.open(job.data.val)
        hosts = check_same_data(world, train_shards, val_shards)
        job = settle_precision(job, world)
        job = settle_stage(job, world, classes=len(train_shards.categories))
        self.world, self.reporter, self.tracker = world, reporter, tracker
        check_categories(train_shards, val_shards)
        load = partial(load_largest, shards=train_shards, world=world)
        job = settle_batch(job, world, classes=len(train_shards.categories), load=load)
        self.job = job
        if world.main:
            warn_of_missing_objects(train_shards, val_shards)
        self.stream = build_stream(job, train_shards, world)
        self.schedule = Schedule(job, self.stream.steps_per_epoch)
        self.pause = Pause(job.train.pause_after, self.stream.steps_per_epoch)
        folder = RunFolder(open_folder(run.store).child(run.name), fence=run.fence if world.main else None)
        start = Start(job, world, train_shards, folder)
        self.step = start.step
        self.learner = build_learner(job, world, start, classes=len(train_shards.categories))
        if start.notes and world.main:
            tracker.tags({"qdet.init_from": "\n".join(start.notes)})
        self.health = HealthMonitor(job, world, self.learner.detector)
        self.crowded = CrowdedImages(self.learner.detector.denoising)
        self.exchange = StepExchange(
            job,
            world,
            unreadable=self.stream.bad,
            stop_requested=reporter.stop_requested,
            launched=run.launched,
        )
        first = world.main and start.step == 0
        seen = observe_beginning(job, world, hosts, train=train_shards, val=val_shards) if first else None
        self.beginning = BeginningRecorder(folder, seen)
        self.exchange.loss.listener = self.beginning.add
        if start.state:
            self.exchange.restore(start.state)
        if start.evaluations:
            reporter.resumed(start.evaluations)
        diagnosis = Diagnosis(job, world, criterion=self.learner.criterion, folder=folder.folder)
        learner = self.learner
        self.verifier = Verifier(
            job,
            world,
            detector=learner.detector,
            criterion=learner.criterion,
            engine=learner.engine,
            folder=folder.folder,
            host=host,
        )
        self.maker = StepMaker(self.schedule, learner, self.exchange, self.health, diagnosis, self.verifier)
        self.evaluator = Evaluator(job, world, val_shards, reporter, tracker)
        writer = CheckpointWriter(
            folder,
            world,
            retention(job, self.stream.steps_per_epoch),
            saved=reporter.saved,
            read_back=job.train.verify_every > 0,
        )
        self.checkpoints = Checkpoints(job, world, train_shards, writer)
        if self.step and world.main:
            print(f"resuming from step {self.step} of {self.schedule.steps}", flush=True)
        self._concluded = False  # whether its last checkpoint has got its metrics just now
        self.accounting = build_accounting(self.stream, world, tracker, step=self.step)
        self.accounting.load(start.ledgers())

    def run(self) -> Result:
        """Make the remaining steps, evaluating and saving on the way."""
        meter = Meter(self.schedule)
        self.learner.engine.train()
        if not self._ended and self.job.eval.sanity:
            self._rehearse()
        if not (self.exchange.early.due or self.pause.due(self.step)):  # else it was started again
            self._make_steps(meter)
        if self._interrupted and not self._ended:
            return self._stop()
        if self.evaluator.step != self.step:
            self._evaluate_last()
        self._finish()
        return Result(self.step, self.schedule.steps, self.evaluator.metrics)

    def _rehearse(self) -> None:
        """Evaluate and save once without keeping anything, so that neither first fails after hours."""
        with self.health.watchdog.off("evaluation of a few images before the first step"):
            self.evaluator.rehearse(self.learner)
            self.checkpoints.rehearse(self._snapshot())

    def _make_steps(self, meter: Meter) -> None:
        """Make steps until the last, an early stop or a request to stop."""
        steps, epoch = self.schedule.steps, self.schedule.steps_per_epoch
        for micro_batches in meter.waiting(self.health.waiting(self.stream.steps(self.step, steps))):
            self.accounting.record(micro_batches)
            meter.add(self.maker.make(self.step, micro_batches))
            self.step += 1
            meter.count()
            if self._reads_now():
                meter.add(self.maker.settle())
            if self._due(self.job.train.log_every):
                self._log(meter)
            if self._due(epoch):
                self.accounting.settle(self.step)
            if self.step == steps:  # evaluated by `run`, once this step is saved
                meter.pause()
                self._save_last()
                return
            if self._due(self.job.train.eval_every * epoch):
                meter.pause()
                self.evaluator.evaluate(self.step, self.learner, self.health)
                self.exchange.early.observe(self.step, self.evaluator.metrics)
            if self._save_is_due() or self._must_save_now():
                meter.pause()
                self._save()
            if self._ended or self._interrupted:
                return

    def _reads_now(self) -> bool:
        """True if the step just made is to be logged, evaluated or saved."""
        train, epoch = self.job.train, self.schedule.steps_per_epoch
        often = (train.log_every, train.eval_every * epoch, train.checkpoint_every, train.keep_every * epoch)
        return self._interrupted or any(self._due(every) for every in often)

    @property
    def _ended(self) -> bool:
        """True after the last step, and where early stopping makes this one the last."""
        return self.step == self.schedule.steps or self.exchange.early.due

    @property
    def _interrupted(self) -> bool:
        """True if this run stops here for now: all ranks have agreed to, or its job says so."""
        return self.exchange.stop.agreed or self.exchange.budget.spent or self.pause.due(self.step)

    def _due(self, every: int) -> bool:
        """True after every so many steps, 0 for never, and after the last."""
        return self.step == self.schedule.steps or (every > 0 and self.step % every == 0)

    def _log(self, meter: Meter) -> None:
        progress, metrics = meter.read(self.step, self.world)
        metrics |= self.exchange.metrics() | self.verifier.metrics()
        if self.world.main:
            self.crowded.look(metrics, self.step)
            self.reporter.progress(progress)
            self.tracker.metrics(metrics, self.step)

    def _save_is_due(self) -> bool:
        """True if the job wants a checkpoint of this step, or this step may turn out to be the best."""
        train = self.job.train
        evaluated = train.keep_best > 0 and self.evaluator.step == self.step
        kept = self._due(train.keep_every * self.schedule.steps_per_epoch)
        return self._due(train.checkpoint_every) or kept or evaluated

    def _must_save_now(self) -> bool:
        """True if this training is about to stop, or a machine of its workers is about to be taken away."""
        asks = self.step % self.job.train.log_every == 0
        return self._ended or self._interrupted or (asks and self.reporter.preempted())

    def _save(self) -> None:
        """Start writing a checkpoint; training continues meanwhile."""
        self.verifier.compare_copies(self.step, self.learner.ema)
        snapshot = self._snapshot()
        with self.health.watchdog.off("checkpoint"):
            stall = self.checkpoints.save(snapshot)
        if self.world.main:
            self.tracker.metrics({"perf/checkpoint_stall": stall}, self.step)

    def _save_last(self) -> None:
        """Have the last step on disk before its evaluation, which may be interrupted."""
        self._save()
        with self.health.watchdog.off("last checkpoint"):
            self.checkpoints.writer.wait(at_end=True)

    def _evaluate_last(self) -> None:
        """Evaluate the last step, and add what it scores to its checkpoint."""
        self.evaluator.evaluate(self.step, self.learner, self.health)
        if not self.exchange.early.due:  # else it has been counted, and the run was started again
            self.exchange.early.observe(self.step, self.evaluator.metrics)
        self._concluded = self.checkpoints.writer.add_metrics(self.step, self.evaluator.metrics)

    def _snapshot(self) -> Snapshot:
        """Return what a checkpoint is made of now. Collective."""
        return Snapshot(
            step=self.step,
            state=self.learner.engine.state,
            ema=self.learner.ema,
            ledger=self.accounting.state(),
            observed=self.exchange.state(),
            metrics=self.evaluator.metrics if self.evaluator.step == self.step else {},
        )

    def _stop(self) -> Result:
        """Wait for the checkpoint that this run will be resumed from, and say how."""
        with self.health.watchdog.off("checkpoint before the stop"):
            self.checkpoints.writer.wait(at_end=True)
        cause = self.exchange.budget if self.exchange.budget.spent else self.pause
        why = "" if self.exchange.stop.agreed else cause.explain()
        return Result(
            self.step,
            self.schedule.steps,
            self.evaluator.metrics,
            stopped=True,
            why=why,
            paused=self.pause.due(self.step),
        )

    def _finish(self) -> None:
        """Wait for the last checkpoint, and log its model and the best one's."""
        with self.health.watchdog.off("last checkpoint"):
            self.checkpoints.writer.wait(at_end=True)
            if self.world.main and (self.checkpoints.writer.wrote or self._concluded):
                log_models(self.checkpoints.writer.run, self.tracker)
        if self.exchange.early.due and self.step < self.schedule.steps and self.world.main:
            why = self.exchange.early.explain()
            print(f"{why}, at step {self.step} of {self.schedule.steps}", flush=True)
            self.tracker.tags({"qdet.ended": why})


def retention(job: Job, steps_per_epoch: int) -> Retention:
    """Return which of its checkpoints a job keeps."""
    train = job.train
    return Retention(
        last=train.keep_checkpoints, best=train.keep_best, every_steps=train.keep_every * steps_per_epoch
    )
