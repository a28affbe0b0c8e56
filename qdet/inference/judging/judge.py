"""`qdet.evaluate`: a model, perhaps beside another, on a dataset."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from qdet.data.shards.shard_set import ShardSet
from qdet.errors import ConfigError
from qdet.evaluation.analysis.bootstrap import DRAWS
from qdet.evaluation.findings import Candidate, Options, analyse
from qdet.inference.judging.classes import SharedClasses, share_classes
from qdet.inference.judging.detecting import Detected, Detecting, detect
from qdet.inference.judging.published import published_ap
from qdet.inference.judging.report import Report
from qdet.inference.load import load
from qdet.inference.model import Model
from qdet.storage.urls import is_url


def evaluate(
    model: Model | str | Path,
    data: ShardSet | str | Path | None = None,
    *,
    compare: Model | str | Path | None = None,
    tta: bool = False,
    size: int | None = None,
    batch: int | None = None,
    workers: int = 1,
    readers: int = 2,
    subset: bool = False,
    strict: bool | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> Report:
    """Judge a model by a dataset with ground truth.

    >>> report = qdet.evaluate("outputs/RUN", "data/demo/shards/val", compare="outputs/OTHER_RUN")

    AP equals, to the last digit, that of training's own evaluation of the same weights on the same device.

    Args:
        model: A loaded model, or what `qdet.load` takes.
        data: Shards, or their folder or URL; by default those that the model's job evaluated on.
        compare: A second model, to be compared with the first on the same images.
        tta: Detect in mirrored and resized images, too, and fuse what is found; with both models.
        size: Short side in pixels that images are resized to; by default that of the model's evaluation. With
            both models.
        batch: Images per forward pass; by default as in the job's evaluation, for the same numbers.
        workers: Processes; more than one run on Ray, here or on the cluster that this process has joined.
        readers: Threads of each process that decode and resize.
        subset: Evaluate the classes that model and data share, where they are not the same.
        strict: Compute COCO's numbers with pycocotools; by default as the job did.
        draws: Draws of the bootstrap that intervals are of.
        seed: Of the bootstrap.

    Raises:
        ConfigError: Model and data do not have the same classes, or a setting cannot work.
        CheckpointError: There is no such model.
        DataError: The data or one of its images cannot be read.
    """
    how = _How(tta=tta, size=size, batch=batch, workers=workers, readers=readers, subset=subset)
    models = [_load(one) for one in (model, compare) if one is not None]
    shards = models[0].description.open_val() if data is None else _open(data)
    found = [how.detect(one, shards) for one in models]
    classes = found[0].classes.common(found[-1].classes)
    if not classes.evaluated:
        raise ConfigError("the two models share no class of the data")
    candidates = [
        Candidate(name, classes.select_rows(one.detected.rows))
        for name, one in zip(_names(models), found, strict=True)
    ]
    strict = models[0].description.eval.strict if strict is None else strict
    findings = analyse(
        classes.select_truth(shards.ground_truth()),
        candidates[0],
        other=candidates[1] if compare is not None else None,
        data=str(shards.source if data is None or isinstance(data, ShardSet) else data),
        seconds=found[0].detected.seconds,
        options=Options(strict=strict, draws=draws, seed=seed),
    )
    description = models[0].description
    published = published_ap(description.job, findings.coco.AP, len(shards))
    return Report(findings, candidates[0].rows, shards, description.step, published)


@dataclass(frozen=True)
class _Found:
    classes: SharedClasses
    detected: Detected


@dataclass(frozen=True)
class _How:
    """How both models detect."""

    tta: bool
    size: int | None
    batch: int | None
    workers: int
    readers: int
    subset: bool

    def __post_init__(self) -> None:
        for flag in ("size", "batch", "workers", "readers"):
            value = getattr(self, flag)
            if value is not None and value < 1:
                raise ConfigError(f"--{flag} must be at least 1, got {value}")

    def detect(self, model: Model, shards: ShardSet) -> _Found:
        source = model.description.source
        classes = share_classes(
            model.classes,
            shards.categories,
            model_name=source,
            data_name=shards.source,
            subset=self.subset,
        )
        detecting = Detecting(
            category_ids=classes.category_ids,
            batch_size=self.batch or model.description.eval.batch_size,
            readers=self.readers,
            workers=self.workers,
            tta=self.tta,
            size=self.size,
        )
        return _Found(classes, detect(model, shards, detecting))


def _load(model: Model | str | Path) -> Model:
    return model if isinstance(model, Model) else load(model)


def _open(data: ShardSet | str | Path) -> ShardSet:
    """Open shards under a name that other processes on this machine can open, too."""
    if isinstance(data, ShardSet):
        return data
    named = str(data)
    if not is_url(named):
        named = "::".join(str(Path(part).expanduser().absolute()) for part in named.split("::"))
    return ShardSet.open(named)


def _names(models: Sequence[Model]) -> list[str]:
    """Return job and step of every model, or where it comes from, where those are the same."""
    names = [f"{one.description.name}, step {one.description.step:,}" for one in models]
    return names if len(set(names)) == len(names) else [one.description.source for one in models]
