"""A job: all settings of one training run, as a tree of frozen dataclasses."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from qdet import trials
from qdet.config import flatten, override
from qdet.data.augment import AugmentConfig
from qdet.data.config import DataConfig
from qdet.detectors import AdaMixerConfig, DetectorConfig
from qdet.errors import ConfigError
from qdet.evaluation.engines import Engine
from qdet.losses import SetLossConfig
from qdet.search import Choice, Each, LogUniform, Space, Uniform, combine, plain
from qdet.train_config import OptimConfig, TrainConfig

LONGEST_NAME = 200
"""Bytes of the longest name of a run: names of files add to it, and most systems end at 255."""


def explain_bad_name(name: str) -> str:
    """Return why a run cannot have this name, which is that of its folder; "" where it can."""
    if not name.isprintable():
        return "has characters that cannot be printed"
    if len(name.encode()) > LONGEST_NAME:
        return f"has {len(name.encode())} bytes, more than {LONGEST_NAME}"
    if not name.strip(". ") or set(name) & set('/\\:*?"<>|'):
        return "is not a valid folder name"
    return ""


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """How COCO AP is measured."""

    batch_size: int = 2
    """Images per worker and forward pass."""
    engine: Engine = "auto"
    """What computes AP: all give the same numbers; `auto` takes hotcoco, or faster-coco-eval without it."""
    strict: bool = False
    """Compute AP with pycocotools, the slower reference."""
    pictures: int = 8
    """Evaluated images to draw with their boxes."""
    sanity: bool = True
    """Evaluate a few images and write a checkpoint without tensors before the first step, and keep nothing of
    either, so that neither fails for the first time after hours."""

    def __post_init__(self) -> None:
        """Reject counts that no evaluation can have."""
        if self.batch_size < 1:
            raise ConfigError(f"--eval.batch-size must be at least 1, got {self.batch_size}")
        if self.pictures < 0:
            raise ConfigError(f"--eval.pictures must be 0 (none) or more, got {self.pictures}")


@dataclass(frozen=True, kw_only=True)
class StoreConfig:
    """Where a run keeps its checkpoints and its record."""

    path: str = "outputs"
    """Folder or URL (s3://, gs://) of checkpoints; every run has its own folder in it."""
    run: str | None = None
    """Name of the run, such as a scheduler's job id; by default the job's name and two words."""
    resume: str | None = None
    """Run to resume from its last checkpoint, of whose name a part is enough; `auto`: `run`, if it exists."""
    take_over: bool = False
    """Take the run at once from a driver that is writing it, or may have died; one that lives then stops."""
    init_from: str | None = None
    """Trained model that a new run starts from, with a new schedule: a run (its best checkpoint) or its name,
    a checkpoint, an exported .safetensors, or `demo`. Rows of classes of the same name are kept."""
    init_parts: tuple[str, ...] = ()
    """Take these parts of that model alone: regular expressions for names of tensors. The rest starts as in a
    run without it; with `train.freeze`, as DAB-DETR's paper trains DETR around learned queries."""
    allow_unverified: bool = False
    """Download starting weights from a URL of yours of which no SHA-256 is known; it is then kept."""

    def __post_init__(self) -> None:
        """Reject names that contradict each other or cannot be a folder."""
        if self.run is not None and (why := explain_bad_name(self.run)):
            raise ConfigError(f"--store.run {self.run[:80]!r} {why}; use letters, digits, - and _")
        if self.init_parts and self.init_from is None:
            raise ConfigError("--store.init-parts are parts of a model: give --store.init-from MODEL with it")
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
    loggers: tuple[Literal["tensorboard", "wandb"], ...] = ()
    """Log there as well: TensorBoard files in the run's folder, or Weights & Biases (extra `wandb`)."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One training run."""

    name: str
    """Name of the job; a run adds two words."""
    detector: DetectorConfig = field(default_factory=AdaMixerConfig)
    loss: SetLossConfig = field(default_factory=SetLossConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    store: StoreConfig = field(default_factory=StoreConfig)
    track: TrackConfig = field(default_factory=TrackConfig)

    def __post_init__(self) -> None:
        """Reject settings that contradict each other."""
        if self.train.canonical and self.data.reading == "sequential":
            raise ConfigError(
                f"--train.canonical {self.train.canonical} and --data.reading sequential: which images form "
                "a batch would depend on the number of workers; give one of them"
            )
        if self.train.auto_batch and self.data.reading == "sequential":
            raise ConfigError(
                "--train.auto-batch tries the largest batch of a plan, and --data.reading sequential has "
                "none: give --train.accumulation N instead"
            )
        if self.train.auto_batch and self.data.pad == "rank":
            raise ConfigError(
                "--train.auto-batch with --data.pad rank: how images are padded, and so the loss, would "
                "depend on the memory of a device; give --train.accumulation N instead"
            )
        scores = getattr(self.detector, "scores", "sigmoid")
        if self.loss.scores != scores:
            name = type(self.detector).__name__
            raise ConfigError(f"--loss.scores {self.loss.scores} does not go with {name}: give {scores}")

    def demo(self, changes: Mapping[str, Any] | None = None) -> "Job":
        """Return this job at laptop size: a small detector on the rendered shapes of `make demo`.

        Args:
            changes: Dotted paths to set on top, such as a learning rate of the job's own.
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
                precision="auto",
                workers=2,
                accelerator="cpu",
                eval_every=1,
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
    """Metric to search by, of those that evaluations report."""
    mode: Literal["max", "min"] = "max"
    """Whether a higher or a lower metric is better."""
    search: Literal["random", "grid", "tpe"] = "random"
    """Draw settings, try every combination of all options once, or learn from ended trials (Optuna's TPE)."""
    scheduler: Literal["asha", "pbt", "none"] = "asha"
    """Stop weak trials early, let weak ones continue from strong ones with changed settings, or neither."""
    trials: int = 16
    """Settings to try; with `Each`, for every combination of their options; a grid has as many as it has."""
    epochs: int | None = None
    """Budget of all trials together, in epochs: when it is used up, trials stop and no more start."""
    hours: float | None = None
    """Budget of the whole sweep, in hours, over all of its starts."""
    concurrent: int = 1
    """Trials that run in parallel, if the cluster has room for them."""
    grace_epochs: int = 1
    """Epochs of every trial before ASHA may stop it."""
    exploit_epochs: int = 1
    """Epochs that every trial of a population (pbt) trains between two comparisons."""

    def __post_init__(self) -> None:
        """Reject counts below one."""
        for name in ("trials", "concurrent", "grace_epochs", "exploit_epochs", "epochs"):
            count, flag = getattr(self, name), name.replace("_", "-")
            if count is not None and count < 1:
                raise ConfigError(f"--sweep.{flag} must be at least 1, got {count}")
        if self.hours is not None and not self.hours > 0:
            raise ConfigError(f"--sweep.hours must be above 0, got {self.hours}")

    def demo(self, job: Job) -> "Sweep":
        """Return this search over what matters at laptop size, near the demo's own settings.

        Outside of 3e-4 to 2e-3 the demo learns next to nothing in its few steps.

        Args:
            job: The demo, whose settings are searched.
        """
        near: dict[str, Space] = {
            "optim.lr": LogUniform(3e-4, 2e-3),
            "detector.queries": Choice((20, 30, 60)),
        }
        known = flatten(job)
        return dataclasses.replace(self, space={path: space for path, space in near.items() if path in known})

    @property
    def listed(self) -> tuple[type, ...]:
        """Kinds of the space whose options take turns."""
        return (Each, Choice) if self.search == "grid" else (Each,)

    @property
    def runs(self) -> int:
        """Number of trainings in the whole sweep."""
        each = len(self.turns())
        if self.search == "tpe" and not any(
            isinstance(plain(one), Uniform | LogUniform) for one in self.space.values()
        ):
            return min(self.trials, len(combine(self.space, trials.values_to_try)))
        return each if self.search == "grid" else each * self.trials

    def turns(self) -> list[dict[str, Any]]:
        """Return every combination of the options that take turns, by path."""
        return combine(self.space, lambda one: one.options if isinstance(one, self.listed) else ())  # type: ignore[union-attr]

    def check(self, job: Job) -> None:
        """Raise ConfigError, before any trial, if a path names no setting or a value is invalid for `job`."""
        trials.check_search(self.space, search=self.search, scheduler=self.scheduler)
        trials.check(job, self.space, listed=self.listed)
