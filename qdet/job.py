"""A job: everything one training run is made of, as one frozen tree."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from qdet import trials
from qdet.config import flatten, override
from qdet.data.augment import AugmentConfig
from qdet.data.config import DataConfig
from qdet.detectors import AdaMixerConfig, DetectorConfig
from qdet.errors import ConfigError
from qdet.losses import SetLossConfig
from qdet.search import Each, Space
from qdet.workers import check_batch, passes_per_step, worker_range


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """AdamW, its parameter groups and its schedule."""

    lr: float = 2.5e-5
    """Peak learning rate, at the job's own batch size."""
    weight_decay: float = 1e-4
    """Decoupled weight decay."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of AdamW's first and second moments."""
    clip_norm: float = 1.0
    """Largest L2 norm of the whole gradient; 0 turns clipping off."""
    lr_multipliers: tuple[tuple[str, float], ...] = ()
    """(regular expression, factor): parameters whose name it finds learn at `lr` times the factor."""
    no_decay: tuple[str, ...] = ()
    """Regular expressions: parameters whose name one of them finds get no weight decay."""
    schedule: Literal["step", "cosine"] = "step"
    """Divide by ten after each of `drop_epochs`, or follow a half cosine down to zero."""
    drop_epochs: tuple[int, ...] = (8, 11)
    """Divide the learning rate by ten after each of these epochs."""
    warmup_steps: int = 500
    """Steps over which the learning rate rises linearly."""
    warmup_ratio: float = 0.001
    """Share of the learning rate that the warm-up starts from."""
    ema_decay: float = 0.0
    """Decay per step of the averaged weights that are evaluated and exported; 0 keeps none."""

    def __post_init__(self) -> None:
        """Reject what could never train, in the words of the command line."""
        if self.lr <= 0:
            raise ConfigError(f"--optim.lr must be above 0, got {self.lr}")
        if self.clip_norm < 0:
            raise ConfigError(f"--optim.clip-norm must be 0 (off) or more, got {self.clip_norm}")
        if not 0 <= self.ema_decay < 1:
            raise ConfigError(f"--optim.ema-decay must be at least 0 and below 1, got {self.ema_decay}")
        if self.warmup_steps < 0:
            raise ConfigError(f"--optim.warmup-steps must be 0 or more, got {self.warmup_steps}")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How long, how big, in what precision, on how many workers."""

    epochs: int = 12
    """Passes over the training shards."""
    steps: int | None = None
    """Stop after this many optimizer steps, whatever `epochs` says; schedules stretch to it."""
    batch_size: int = 16
    """Images per optimizer step over all workers; the number of workers does not change it."""
    accumulation: int = 1
    """Forward and backward passes that a worker makes its share of a step in."""
    precision: Literal["bf16", "fp32"] = "bf16"
    """Backbone and decoder arithmetic; geometry, matching, losses and weights stay in fp32."""
    zero: Literal[0, 1, 2, 3] = 1
    """DeepSpeed ZeRO stage: what is sharded over the workers (1 optimizer, 2 gradients, 3 weights)."""
    activation_checkpointing: bool = False
    """Recompute decoder stages in the backward pass instead of keeping their activations."""
    workers: int | str = 8
    """Ray workers, one process each; a range such as 2:8 goes on with fewer when nodes are lost."""
    accelerator: Literal["auto", "gpu", "cpu"] = "auto"
    """What a worker trains on; `auto` takes a GPU where the cluster has enough of them."""
    cpus_per_worker: int = 1
    """CPUs that Ray reserves for a worker; also its number of torch threads on a CPU."""
    seed: int = 0
    """Seeds initialisation, data order and augmentation."""
    eval_every: int = 1
    """Epochs between evaluations; 0 evaluates only at the end."""
    log_every: int = 20
    """Steps between points of the training metrics."""
    checkpoint_every: int = 500
    """Steps between checkpoints; one is always written at the end."""
    keep_checkpoints: int = 2
    """Checkpoints kept beside the last."""
    keep_best: int = 1
    """Checkpoints of highest AP that are kept as well; with 1 or more, one is written at every evaluation."""
    keep_every: int = 0
    """Epochs between checkpoints that are kept for good; 0 keeps none."""
    max_failures: int = 3
    """Times that the workers are restarted from the last checkpoint before the run fails."""
    timeout: int = 60
    """Seconds after which a collective that does not answer fails the step."""
    hang_after: int = 60
    """Seconds beyond the slowest recent step after which a worker that stands still is restarted; 0 never."""
    max_skips: int = 10
    """Steps that may be skipped because a loss or gradient was not finite; three in a row end the run."""

    def __post_init__(self) -> None:
        """Reject what could never train, in the words of the command line."""
        for name in (
            "epochs",
            "batch_size",
            "accumulation",
            "cpus_per_worker",
            "log_every",
            "checkpoint_every",
            "keep_checkpoints",
            "timeout",
        ):
            if getattr(self, name) < 1:
                flag = name.replace("_", "-")
                raise ConfigError(f"--train.{flag} must be at least 1, got {getattr(self, name)}")
        for name in ("keep_best", "keep_every", "hang_after", "max_skips"):
            if getattr(self, name) < 0:
                flag = name.replace("_", "-")
                raise ConfigError(f"--train.{flag} must be 0 (none) or more, got {getattr(self, name)}")
        if self.steps is not None and self.steps < 1:
            raise ConfigError(f"--train.steps must be at least 1, got {self.steps}")
        check_batch(self.batch_size, self.workers, self.accumulation)

    @property
    def least_workers(self) -> int:
        """Workers that the run can do with."""
        return worker_range(self.workers)[0]

    @property
    def most_workers(self) -> int:
        """Workers that the run starts with where there is room."""
        return worker_range(self.workers)[1]

    def passes(self, workers: int) -> int:
        """Forward and backward passes per step when `workers` share it."""
        return passes_per_step(
            self.batch_size, workers, most=self.most_workers, accumulation=self.accumulation
        )


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """How COCO AP is measured."""

    batch_size: int = 2
    """Images per worker and forward pass."""
    strict: bool = False
    """Compute AP with pycocotools, the slower reference, instead of faster-coco-eval."""
    pictures: int = 8
    """Evaluated images that are drawn with their boxes."""


@dataclass(frozen=True, kw_only=True)
class StoreConfig:
    """Where a run keeps what outlives it."""

    path: str = "outputs"
    """Folder or URL (s3://, gs://) of checkpoints; every run has a folder of its own in it."""
    run: str | None = None
    """Name of the run, such as a scheduler's job id; by default the job's name, the time, random letters."""
    resume: str | None = None
    """Run to go on with, from its last checkpoint and in its MLflow run; `auto`: `run`, if it is there."""
    init_from: str | None = None
    """Checkpoint folder whose weights training starts from, with a fresh schedule."""

    def __post_init__(self) -> None:
        """Reject names that contradict each other or cannot be a folder, in the words of the command line."""
        if self.run is not None and (not self.run.strip(". ") or set(self.run) & set('/\\:*?"<>|')):
            raise ConfigError(
                f"--store.run {self.run!r} is no name of a folder; use letters, digits, - and _"
            )
        if self.resume == "auto" and self.run is None:
            raise ConfigError("--store.resume auto needs the run's name: give --store.run NAME as well")
        if self.run is not None and self.resume not in (None, "auto", self.run):
            raise ConfigError(
                f"--store.run {self.run} and --store.resume {self.resume} name two runs; give one of them"
            )


@dataclass(frozen=True, kw_only=True)
class TrackConfig:
    """MLflow. The server is the one of MLFLOW_TRACKING_URI, by default a local sqlite database."""

    experiment: str = "qdet"
    """MLflow experiment."""
    system_metrics: bool = True
    """Log CPU, memory and GPU use."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One training run."""

    name: str
    """Name of the job; a run's own name adds when it started."""
    detector: DetectorConfig = field(default_factory=AdaMixerConfig)
    loss: SetLossConfig = field(default_factory=SetLossConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    store: StoreConfig = field(default_factory=StoreConfig)
    track: TrackConfig = field(default_factory=TrackConfig)

    def __post_init__(self) -> None:
        """Reject a loss that would take a class for "no object", or the other way round."""
        scores = getattr(self.detector, "scores", "sigmoid")
        if self.loss.scores != scores:
            name = type(self.detector).__name__
            raise ConfigError(f"--loss.scores {self.loss.scores} does not go with {name}: give {scores}")

    def demo(self, changes: Mapping[str, Any] | None = None) -> "Job":
        """This job at the size of a laptop: a small detector on the rendered shapes of `make demo`.

        `changes` are dotted paths that a job sets on top, such as its own learning rate.
        """
        small = dataclasses.replace(
            self,
            name=f"{self.name}_demo",
            detector=self.detector.demo(),
            data=DataConfig(
                train="data/demo/shards/train",
                val="data/demo/shards/val",
                augment=AugmentConfig(sizes=(128,), max_size=128, crop=False),
                readers=1,
            ),
            optim=dataclasses.replace(
                self.optim,
                lr=1e-3,
                lr_multipliers=(),
                schedule="cosine",
                warmup_steps=100,
                ema_decay=0.995,
                drop_epochs=(),
            ),
            train=dataclasses.replace(
                self.train,
                steps=1200,
                batch_size=16,
                accumulation=1,
                zero=2,
                precision="bf16",
                workers=2,
                accelerator="cpu",
                eval_every=0,
                log_every=10,
                checkpoint_every=300,
            ),
            eval=dataclasses.replace(self.eval, batch_size=8),
        )
        return override(small, changes or {})


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """A Ray Tune search over a job's settings, named by their dotted paths."""

    space: dict[str, Space]
    """What to search: dotted path of a setting to `Uniform`, `LogUniform`, `Choice` or `Each`."""
    metric: str = "val/AP"
    """Metric to maximise."""
    trials: int = 16
    """Settings to try; where there are `Each`, of every combination of their options."""
    concurrent: int = 1
    """Trials that run at the same time."""
    grace_epochs: int = 1
    """Evaluations that every trial may make before ASHA can stop it."""

    def __post_init__(self) -> None:
        """Reject what could never search, in the words of the command line."""
        for name in ("trials", "concurrent", "grace_epochs"):
            if getattr(self, name) < 1:
                flag = name.replace("_", "-")
                raise ConfigError(f"--sweep.{flag} must be at least 1, got {getattr(self, name)}")

    @property
    def runs(self) -> int:
        """Trainings that the whole sweep makes."""
        return self.trials * math.prod(len(s.options) for s in self.space.values() if isinstance(s, Each))

    def check(self, job: Job) -> None:
        """Fail now, not in trial seven, when there is no such setting or `job` cannot have such a value."""
        unknown = self.space.keys() - flatten(job).keys()
        if unknown:
            raise ConfigError(f"sweep of {job.name!r} names no setting: {', '.join(sorted(unknown))}")
        trials.check(job, self.space)
