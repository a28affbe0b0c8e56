"""What is known of a model beside its weights, from a checkpoint or from the JSON of an exported file."""

import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, TypeVar

from qdet.checkpoint import Checkpoint, Manifest
from qdet.checkpoint.model_file import describe
from qdet.checkpoint.reading import Peek
from qdet.config import restore
from qdet.data.augment import AugmentConfig
from qdet.data.config import DataConfig
from qdet.data.shards.categories import Categories
from qdet.data.shards.shard_set import ShardSet
from qdet.detectors import DetectorConfig
from qdet.errors import CheckpointError, ConfigError, DataError
from qdet.job import EvalConfig
from qdet.storage.parsing import parse_json

Precision = Literal["bf16", "fp32"]
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Description:
    """A model's settings, classes and origin."""

    job: Mapping[str, Any] = field(repr=False)
    """The flat settings of the job that trained it; of a converted checkpoint only those of its detector."""
    classes: Categories
    step: int
    """Training steps behind the weights; 0 of a converted checkpoint."""
    averaged: bool = False
    """Whether the weights are the moving average of those that were trained."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Those of an evaluation of these weights in training, such as `val/AP`; empty if there was none."""
    source: str = ""
    """Path or URL that the model was loaded from."""

    @classmethod
    def of_checkpoint(cls, saved: Checkpoint | Peek, manifest: Manifest, *, averaged: bool) -> "Description":
        """Describe the model of a checkpoint, or raise `CheckpointError` where its classes are damaged."""
        return cls(
            job=saved.job,
            classes=_classes(saved.state.categories, str(saved.folder)),
            step=saved.state.step,
            averaged=averaged and isinstance(saved, Checkpoint) and bool(saved.names("average")),
            metrics=manifest.metrics,
            source=str(saved.folder),
        )

    @classmethod
    def from_json(cls, text: str | bytes, *, source: str) -> "Description":
        """Read what `to_json` wrote.

        Raises:
            CheckpointError: It is damaged, or of something else; the message names `source`.
        """
        try:
            content = parse_json(text)
            return cls(
                job=dict(content["job"]),
                classes=_classes(content["categories"], source),
                step=int(content["step"]),
                averaged=bool(content.get("averaged", False)),
                metrics={str(k): float(v) for k, v in content.get("metrics", {}).items()},
                source=source,
            )
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            if isinstance(error, CheckpointError):
                raise
            raise CheckpointError(f"{source} does not describe a model of qdet: {error!r}") from error

    def to_json(self) -> str:
        """Return it as JSON, without secrets, which URLs among the settings may hold."""
        return describe(
            job=self.job,
            categories={"names": list(self.classes.names), "ids": list(self.classes.ids)},
            step=self.step,
            averaged=self.averaged,
            metrics=self.metrics,
        )

    @property
    def name(self) -> str:
        """Name of the job."""
        return str(self.job.get("name", "model"))

    @cached_property
    def detector(self) -> DetectorConfig:
        """Settings of the detector.

        Raises:
            CheckpointError: This version of qdet has no such detector or setting.
        """
        kinds = {kind.__name__: kind for kind in typing.get_args(DetectorConfig)}
        name = self.job.get("detector")
        if not isinstance(name, str) or name not in kinds:
            raise CheckpointError(
                f"{self.source} is of the detector {name}, which this version does not have"
            )
        return self._restore(kinds[name], "detector.")

    @cached_property
    def augment(self) -> AugmentConfig:
        """How images are resized and padded."""
        return self._restore(AugmentConfig, "data.augment.")

    @cached_property
    def eval(self) -> EvalConfig:
        """How the job evaluated."""
        return self._restore(EvalConfig, "eval.")

    def open_val(self) -> ShardSet:
        """Open the shards that the job evaluated on.

        Raises:
            ConfigError: The model was converted, so that no job has evaluated it.
            DataError: They are not there any more.
        """
        if "data.val" not in self.job:
            raise ConfigError(f"{self.source} names no data that it was evaluated on; give --data SHARDS")
        data = self._restore(DataConfig, "data.")
        return data.open(data.val)

    @property
    def precision(self) -> Precision:
        """What the model was trained and evaluated in; fp32 where that is not known."""
        return "bf16" if self.job.get("train.precision") == "bf16" else "fp32"

    def _restore(self, kind: type[T], at: str) -> T:
        try:
            return restore(kind, {p: v for p, v in self.job.items() if p.startswith(at)}, at=at)
        except (ConfigError, TypeError) as error:
            raise CheckpointError(
                f"{self.source}: its settings cannot be used ({error}); use the version of qdet that wrote it"
            ) from error


def _classes(categories: Mapping[str, Any], source: str) -> Categories:
    try:
        pairs = zip(categories["ids"], categories["names"], strict=True)
        return Categories.from_coco([{"id": i, "name": n} for i, n in pairs], where=source)
    except DataError as error:
        raise CheckpointError(str(error)) from error
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{source}: its classes are damaged: {error}") from error
