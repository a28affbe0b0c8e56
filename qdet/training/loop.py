"""Training from the first step to the last: one readable `train(job)`.

It runs alone in a process, under torchrun and inside a Ray worker with no change: ranks and device come from
`distributed.join`, checkpoints and progress go to a `Reporter`, metrics to a `Tracker`.
"""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from qdet.backbones import load_pretrained
from qdet.config import flatten
from qdet.data.shards import ShardSet
from qdet.data.stream import TrainStream
from qdet.errors import CheckpointError, ConfigError, DivergedError
from qdet.job import Job
from qdet.losses import counted_objects, matched_objects
from qdet.tracking import Tracker
from qdet.training import checkpoint
from qdet.training.checkpoint import Checkpoint, TrainState
from qdet.training.distributed import World, join
from qdet.training.ema import Ema
from qdet.training.evaluate import evaluate_shards
from qdet.training.meter import Meter
from qdet.training.pictures import log_pictures
from qdet.training.reporting import Reporter
from qdet.training.schedule import lr_factor
from qdet.training.zero import ZeroEngine
from qdet.types import Batch


@dataclass(frozen=True)
class Result:
    """How training ended."""

    step: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Those of the last evaluation, such as `val/AP`; on rank 0."""


def train(job: Job, *, reporter: Reporter, tracker: Tracker) -> Result:
    """Train `job` to its last step, from its last checkpoint where there is one. Collective.

    Raises:
        QdetError: The job, its shards or a checkpoint cannot be used as they are.
    """
    world = join(job.train.accelerator, timeout=job.train.timeout)
    if world.device.type == "cpu":
        torch.set_num_threads(job.train.cpus_per_worker)
    run = _Training(job, world, reporter, tracker)
    return run.to_the_end()


class _Training:
    """The state of one training: what is learned, and how far it is."""

    def __init__(self, job: Job, world: World, reporter: Reporter, tracker: Tracker) -> None:
        check_world(job, world.size)
        self.job, self.world, self.reporter, self.tracker = job, world, reporter, tracker
        self.train_shards, self.val_shards = ShardSet.open(job.data.train), ShardSet.open(job.data.val)
        check_categories(self.train_shards, self.val_shards)
        self.stream = self._train_stream()
        self.steps = total_steps(job, self.stream.steps_per_epoch)
        torch.manual_seed(job.train.seed)
        self.detector = job.detector.build(len(self.train_shards.categories))
        self.criterion = job.loss.build(len(self.train_shards.categories)).to(world.device)
        saved = self._saved()
        self._load_weights(saved)
        self.detector.recompute = job.train.activation_checkpointing
        self.engine = ZeroEngine(self.detector, job.train, job.optim, world)
        self.ema = Ema(self.detector, job.optim.ema_decay)
        self.step = 0
        self.evaluated: dict[str, float] = {}
        if saved is not None:
            self._go_on_from(saved)

    def to_the_end(self) -> Result:
        """Run the remaining steps, evaluating and saving on the way."""
        job, meter = self.job, Meter(self.job, self.steps, self.stream.steps_per_epoch)
        self.engine.train()
        for micro_batches in meter.waiting(self.stream.steps(self.step, self.steps)):
            terms, norm = self._train_step(micro_batches)
            self.step += 1
            meter.add(terms, norm)
            if self.step % job.train.log_every == 0 or self.step == self.steps:
                self._log(meter)
            if self._due(job.train.eval_every * self.stream.steps_per_epoch) or self.step == self.steps:
                meter.pause()
                self._evaluate()
            if self._due(job.train.checkpoint_every) or self.step == self.steps:
                meter.pause()
                self._save()
        if not self.evaluated:  # every step was done before: a finished run was started again
            self._evaluate()
        return Result(self.step, self.evaluated)

    def _due(self, every: int) -> bool:
        return every > 0 and self.step % every == 0

    def _train_step(self, micro_batches: list[Batch]) -> tuple[dict[str, Tensor], float]:
        """Make one optimizer step from this rank's share of a global batch."""
        job, world = self.job, self.world
        # Drawn anew for every step, random numbers need no state of their own in a checkpoint.
        torch.manual_seed((job.train.seed * 1_000_003 + self.step) * 1_009 + world.rank)
        factor = lr_factor(
            self.step, steps=self.steps, steps_per_epoch=self.stream.steps_per_epoch, optim=job.optim
        )
        divisors = self._divisors(micro_batches)
        self.detector.progress = self.step / self.steps
        total: dict[str, Tensor] = {}
        norm = float("nan")
        for batch in micro_batches:
            here = batch.to(world.device, non_blocking=True)
            stages = self.engine(here.images, here.sizes_hw)
            losses = self.criterion(stages, here.targets, here.sizes_hw, **divisors)
            self.engine.backward(losses.total)
            norm = self.engine.step(factor)
            for name, value in ({"loss": losses.total} | losses.terms).items():
                total[name] = total.get(name, 0) + value.detach() / len(micro_batches)
        self.ema.update()
        return total, norm

    def _divisors(self, micro_batches: list[Batch]) -> dict[str, float]:
        """Return what each rank divides its losses by, as arguments of the loss.

        Gradients are averaged over ranks and micro-batches; dividing by the objects of the whole global batch
        per rank and micro-batch makes the sum of all the loss over that batch's objects, whoever holds them.
        """
        targets, queries = [batch.targets for batch in micro_batches], self.job.detector.queries
        objects, matched = self.world.sum(
            float(sum(counted_objects(t, queries, self.job.loss.per) for t in targets)),
            float(sum(matched_objects(t, queries) for t in targets)),
        )
        passes = self.world.size * len(micro_batches)
        return {"normalizer": max(objects, 1.0) / passes, "matched": matched / passes}

    def _log(self, meter: Meter) -> None:
        progress, metrics = meter.read(self.step, self.world)
        if not torch.isfinite(torch.tensor(progress.loss)):
            raise DivergedError(
                f"the loss is {progress.loss} at step {self.step}; lower --optim.lr or --optim.clip-norm, or "
                "try --train.precision fp32"
            )
        if self.world.main:
            self.reporter.progress(progress)
            self.tracker.metrics(metrics, self.step)

    def _evaluate(self) -> None:
        """Measure AP of the averaged weights, or of the weights where no average is kept."""
        self.engine.eval()
        with self.ema.swapped():
            metrics, rows = evaluate_shards(self.detector, self.engine, self.val_shards, self.job, self.world)
        self.engine.train()
        self.evaluated = metrics.as_dict("val/")
        if self.world.main:
            self.tracker.metrics(self.evaluated, self.step)
            self.tracker.table(metrics.class_rows(), f"per_class/step_{self.step:06d}.json")
            log_pictures(self.tracker, self.val_shards, rows, self.job.eval.pictures, self.step)

    def _save(self) -> None:
        """Write a checkpoint and hand it to the reporter."""
        weights, moments = self.engine.weights(), self.engine.moments()
        average = None
        if self.job.optim.ema_decay:
            with self.ema.swapped():
                average = self.engine.weights()
        saved = Checkpoint(
            weights=weights, moments=moments, average=average, state=self._state(), job=flatten(self.job)
        )
        folder = self.world.on_main(lambda: checkpoint.write_new(saved))
        folder = folder if self.world.main else None
        if self.world.main and self.step == self.steps:
            with tempfile.TemporaryDirectory() as model:
                checkpoint.export(Path(model), saved)
                self.tracker.model(Path(model))
        self.reporter.checkpoint(folder, step=self.step, metrics=self.evaluated)
        self.world.barrier()

    def _state(self) -> TrainState:
        categories = self.train_shards.categories
        return TrainState(
            step=self.step,
            ema_updates=self.ema.updates,
            seed=self.job.train.seed,
            batch_size=self.job.train.batch_size,
            data_digest=self.train_shards.digest,
            categories={"names": list(categories.names), "ids": list(categories.ids)},
        )

    def _saved(self) -> Checkpoint | None:
        """Read the run's last checkpoint, if there is one, and see that the job still fits it."""
        folder = self.reporter.latest_checkpoint()
        if folder is None:
            return None
        saved = checkpoint.read(folder)
        check_unchanged(saved.state, self.job, self.train_shards.digest, folder)
        return saved

    def _load_weights(self, saved: Checkpoint | None) -> None:
        source = self.job.store.init_from
        if saved is not None:
            checkpoint.load_weights(self.detector, saved.weights, source=Path("the run's last checkpoint"))
        elif source is not None:
            start, kind = checkpoint.read(Path(source)), type(self.job.detector).__name__
            names = self.train_shards.categories.names
            checkpoint.check_start(start, detector=kind, classes=names, source=Path(source))
            checkpoint.load_weights(self.detector, start.average or start.weights, source=Path(source))
        else:
            load_pretrained(self.detector.backbone, self.job.detector.backbone)

    def _go_on_from(self, saved: Checkpoint) -> None:
        self.step = saved.state.step
        self.engine.load_moments(saved.moments, step=self.step)
        if saved.average is not None:
            self.ema.load(saved.average, updates=saved.state.ema_updates, share=self.engine.share)
        if self.world.main:
            print(f"going on after step {self.step} of {self.steps}", flush=True)

    def _train_stream(self) -> TrainStream:
        job = self.job
        return TrainStream(
            self.train_shards,
            job.data.augment,
            batch_size=job.train.batch_size,
            seed=job.train.seed,
            rank=self.world.rank,
            world_size=self.world.size,
            accumulation=job.train.accumulation,
            readers=job.data.readers,
            prefetch=job.data.prefetch,
        )


def total_steps(job: Job, steps_per_epoch: int) -> int:
    """Return how many optimizer steps a job makes."""
    return job.train.steps or job.train.epochs * steps_per_epoch


def check_world(job: Job, size: int) -> None:
    """Raise unless `size` ranks can share the job's global batch."""
    if job.train.batch_size % (size * job.train.accumulation):
        raise ConfigError(
            f"--train.batch-size {job.train.batch_size} must split evenly over {size} workers times "
            f"--train.accumulation {job.train.accumulation}"
        )


def check_categories(train: ShardSet, val: ShardSet) -> None:
    """Raise unless both sets of shards have the same classes."""
    if train.categories != val.categories:
        only = set(train.categories.names) ^ set(val.categories.names)
        raise ConfigError(
            "--data.train and --data.val have different categories"
            + (f"; only one of them has {', '.join(sorted(only))}" if only else ": their ids differ")
        )


def check_unchanged(state: TrainState, job: Job, digest: str, folder: Path) -> None:
    """Raise where a job changed what the data order of the checkpoint in `folder` rests on."""
    changed = [
        f"{what} is {now}, it was {then}"
        for what, now, then in (
            ("--train.seed", job.train.seed, state.seed),
            ("--train.batch-size", job.train.batch_size, state.batch_size),
            ("the digest of --data.train", digest, state.data_digest),
        )
        if now != then
    ]
    if changed:
        raise CheckpointError(
            f"cannot go on from {folder}: {'; '.join(changed)}. Change it back, or start a new run from "
            "those weights with --store.init-from"
        )
