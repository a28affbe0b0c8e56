"""Settings for a dataset of some hundred or thousand images, chosen from a few facts about it.

`choose_settings` is a pure function: what it returns depends on its arguments alone, each setting with the
reason for it. They are defaults; flags of the command line win.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from qdet.detectors import AdaMixerConfig
from qdet.job import Job

SEEN = 7_000
"""Images seen in training, counting an image each time: small sets are repeated more often."""
BATCH = 8
"""Images of a step at most: when few images are seen, more steps learn more than larger ones."""
EPOCHS = (12, 300)
"""Fewest and most passes over the images."""
SIDE = 56
"""Side in pixels that a typical object gets in evaluation, if the images have that many pixels."""
QUERIES_PER_OBJECT = 2.5
"""Queries for every object of a crowded image: several compete for each."""
EVALUATIONS = 10
"""Evaluations at most; a fixed number, so that they cost the same share of any training."""
PATIENCE = 4
"""Evaluations without a better AP that end it."""


@dataclass(frozen=True)
class DataFacts:
    """What the settings follow from."""

    images: int
    """Training images."""
    classes: int
    crowd: int
    """Objects in a crowded image: the 99th percentile."""
    side: float
    """Side in pixels of a typical object, in the images as they are: the median of the square root of w h."""
    size_hw: tuple[int, int]
    """Median height and width of the images in pixels."""

    def describe(self) -> str:
        """Say them in one line."""
        height, width = self.size_hw
        return (
            f"{self.images:,} images of {width} x {height} pixels, {self.classes} classes, some {self.crowd} "
            f"objects in a crowded image, the typical object {self.side:.0f} pixels wide and high"
        )


@dataclass(frozen=True)
class Setting:
    """One setting and why."""

    value: Any
    reason: str


def choose_settings(facts: DataFacts, base: Job, *, workers: int, most: int) -> dict[str, Setting]:
    """Choose settings by their dotted paths, to be set on top of `base`.

    Args:
        facts: About the training images.
        base: The job whose detector is trained.
        workers: Processes that train: GPUs, or cores.
        most: Largest short side of resized images in pixels that the machine has the time for.
    """
    batch = _batch_size(facts.images, base.train.batch_size)
    queries = f"{QUERIES_PER_OBJECT:g} for each of {facts.crowd} objects, or the detector's own number"
    found = _choose_sizes(facts, base, most) | _choose_length(facts.images, batch, base)
    found["train.workers"] = Setting(math.gcd(workers, batch), "what is here and divides a batch")
    if "queries" in {field.name for field in fields(base.detector)}:  # else they follow from others
        found["detector.queries"] = Setting(_count_queries(facts, base), queries)
    return found


def _choose_sizes(facts: DataFacts, base: Job, most: int) -> dict[str, Setting]:
    short, long = min(facts.size_hw), max(facts.size_hw)
    wanted = short * SIDE / max(facts.side, 1.0)
    side = _round(_clip(wanted, min(128, short), max(min(most, short), 32)), 32)
    longest = _round(1.25 * side * long / short, 32)
    small, large, least_cut = _round(0.875 * side, 16), _round(1.125 * side, 16), _round(0.75 * side, 16)
    found = {
        "eval_size": Setting(side, f"a typical object gets {SIDE} pixels; {most} at most"),
        "sizes": Setting((small,), "smaller: windows get this size too and show objects larger"),
        "max_size": Setting(longest, "a quarter more than its images are long"),
        "crop": Setting(True, "few images: show parts of them too"),
        "crop_sizes": Setting((small, large), "a little smaller and larger"),
        "crop_range": Setting((least_cut, large), "most of an image"),
    }
    settings = {f"data.augment.{name}": setting for name, setting in found.items()}
    detector = base.detector
    if isinstance(detector, AdaMixerConfig) and not 0.5 < detector.position_scale * longest < 2:
        settings["detector.position_scale"] = Setting(1 / longest, "positions between 0 and 1")
    return settings


def _choose_length(images: int, batch: int, base: Job) -> dict[str, Setting]:
    epochs, each = _clip(round(SEEN / images), *EPOCHS), -(-images // batch)
    steps, every = epochs * each, -(-epochs // EVALUATIONS)
    rate = base.optim.lr * math.sqrt(batch / base.train.batch_size)
    average = round(_clip(1 - 5 / steps, 0.9, 0.9998), 4)
    return {
        "train.batch_size": Setting(batch, f"at most {BATCH}, or a quarter of the images: many steps"),
        "train.accumulation": Setting(1, "a batch fits"),
        "train.precision": Setting("auto", "bf16 where all devices have it in hardware"),
        "train.zero": Setting("auto", "nothing is sharded that fits into every worker"),
        "train.epochs": Setting(epochs, f"{steps:,} steps: some {epochs * images:,} images are seen"),
        "train.steps": Setting(None, "counted in epochs"),
        "data.tail": Setting("wrap", "every image in every epoch"),
        "optim.lr": Setting(rate, "the job's, by the square root of the batch"),
        "optim.schedule": Setting("cosine", "needs no epochs to be chosen"),
        "optim.drop_epochs": Setting((), "it has none"),
        "optim.warmup_steps": Setting(_clip(steps // 10, 1, 200), "a tenth of the steps"),
        "optim.ema_decay": Setting(average, "averages a fifth of the steps"),
        "train.eval_every": Setting(every, f"{-(-epochs // every)} evaluations"),
        "train.early_stopping": Setting(PATIENCE, "evaluations without a better AP"),
        "train.checkpoint_every": Setting(every * each, "with every evaluation"),
        "train.log_every": Setting(_clip(steps // 50, 1, 20), "fifty lines"),
    }


def _batch_size(images: int, base: int) -> int:
    most = max(1, min(base, BATCH, images // 4))
    return 2 ** int(math.log2(most))


def _count_queries(facts: DataFacts, base: Job) -> int:
    needed = _round(QUERIES_PER_OBJECT * facts.crowd, 10, up=True)
    return max(base.detector.queries, min(needed, 900))


def _round(value: float | int, multiple: int, *, up: bool = False) -> int:
    return max(multiple, (math.ceil if up else round)(value / multiple) * multiple)


def _clip(value: Any, least: Any, most: Any) -> Any:
    return min(max(value, least), most)


def values(settings: Mapping[str, Setting]) -> dict[str, Any]:
    """Return the values alone, for `qdet.config.override`."""
    return {path: setting.value for path, setting in settings.items()}
