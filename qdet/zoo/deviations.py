"""How the recipes here differ from the authors': every difference, with its reason.

`qdet.zoo.deviation_page` makes `docs/deviations.md` of them, and a test compares the two: a recipe that is
changed without a reason fails.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from qdet.backbones import SwinConfig
from qdet.config import flatten
from qdet.errors import ConfigError
from qdet.job import Job
from qdet.train_config import worker_range
from qdet.zoo.authors import OFFICIAL
from qdet.zoo.official import Official

IMAGES = 118_287
"""Images of COCO train2017."""
NO_DECAY = {
    (): "none",
    (
        r"^(backbone|decoder)\..*norm",
        r"relative_position_bias",
    ): "norms but those of neck and towers, relative position biases",
}
"""Expressions of a job to what they mean."""
FILTERS = {"opencv": "opencv", "pillow-exact": "pillow", "pillow": "pillow where it shrinks, else opencv"}
"""Filters of a job to what they mean."""
PADDED = {"global": "the step", "rank": "one GPU"}
"""Which images are padded to one size."""
TITLES = {
    "lr": "learning rate",
    "backbone_lr": "learning rate of the backbone",
    "sampling_lr": "learning rate of sampling offsets and reference points",
    "betas": "AdamW's betas",
    "weight_decay": "weight decay",
    "no_decay": "without weight decay",
    "clip_norm": "largest norm of the gradient",
    "warmup": "warm-up",
    "epochs": "epochs",
    "drops": "drops after epochs",
    "steps": "steps",
    "drop_steps": "drops after steps",
    "batch": "images of a step",
    "images_per_gpu": "images of a GPU",
    "sizes": "short side",
    "longest": "longest side",
    "crop": "random crops",
    "crop_longest": "longest side before a crop",
    "flip": "mirrored images",
    "filter": "filter of the resize",
    "empty": "images without objects",
    "padding": "padded to the largest of",
    "batches": "batches",
    "precision": "precision",
    "average": "averaged weights",
    "loss": "loss weights: class, L1, GIoU",
    "matching": "matching weights",
    "dropout": "dropout",
    "norms": "batch norms of the backbone",
    "drop_path": "dropped paths",
    "centers": "anchor centres",
}


@dataclass(frozen=True)
class Difference:
    """One setting of one job."""

    job: str
    setting: str
    theirs: str
    ours: str

    @property
    def reason(self) -> str:
        """Why it differs.

        Raises:
            ConfigError: No reason is listed.
        """
        for setting, jobs, reason in REASONS:
            if setting == self.setting and re.fullmatch(jobs, self.job):
                return reason
        raise ConfigError(
            f"{self.job}: {TITLES[self.setting]} is {self.ours} here and {self.theirs} in the authors' "
            "configuration, and qdet/zoo/deviations.py lists no reason"
        )


REASONS: tuple[tuple[str, str, str], ...] = (
    (
        "precision",
        ".*",
        "Memory and speed of current GPUs; weights, losses, geometry and matching stay in fp32. "
        "`--train.precision fp32` trains as the authors do.",
    ),
    (
        "batches",
        ".*",
        "Less padding: padded over real pixels is 1.06 instead of 1.57 at 4 images a GPU. "
        "`--data.no-by-size` draws them at random.",
    ),
    (
        "padding",
        ".*",
        "Results must not depend on the number of workers. It matters where padding changes predictions: "
        "DC5, Anchor DETR's means and AdaMixer's sampling grid.",
    ),
    (
        "images_per_gpu",
        ".*",
        "How a step's images are shared changes its time alone; where padding matters each has a worker of "
        "its own.",
    ),
    ("steps", "sparse_rcnn.*", "36 epochs of whole batches; the authors' 270,000 steps are 36.5."),
    (
        "drop_steps",
        "sparse_rcnn.*",
        "The epochs nearest to theirs: schedules here are counted in epochs, so that they fit any dataset.",
    ),
    (
        "batch",
        "smca_r50",
        "The paper's 1 image on each of 8 GPUs; the published command has 2. The paper finds no difference: "
        "`--table batch`.",
    ),
    (
        "filter",
        ".*",
        "Faster; pixels differ by 0.24 of 255 on average. `--data.augment.resize pillow-exact` is the "
        "authors'.",
    ),
    ("centers", "dab_detr_r50_dc5_fixxy", "The paper fixes them; the code's switch has no effect."),
)
"""Setting, expression for the names of jobs, reason; the first that fits counts."""


def describe(job: Job) -> dict[str, object]:
    """Return a job's settings under the names of `Official`."""
    optim, augment, loss = job.optim, job.data.augment, job.loss
    epoch, workers = IMAGES // job.train.batch_size, worker_range(job.train.workers)[1]
    return {
        "lr": optim.lr,
        "backbone_lr": _rate(job, "backbone.layer2.0.conv1.weight"),
        "sampling_lr": _rate(job, "encoder.layers.0.attention.update.attention.sampling_offsets.weight"),
        "betas": optim.betas,
        "weight_decay": optim.weight_decay,
        "no_decay": NO_DECAY.get(optim.no_decay, ", ".join(optim.no_decay)),
        "clip_norm": optim.clip_norm,
        "warmup": f"{optim.warmup_steps} steps from {optim.warmup_ratio}" if optim.warmup_steps else "none",
        "epochs": job.train.epochs,
        "drops": optim.drop_epochs,
        "steps": job.train.epochs * epoch,
        "drop_steps": tuple(drop * epoch for drop in optim.drop_epochs),
        "batch": job.train.batch_size,
        "images_per_gpu": job.train.batch_size // workers,
        "sizes": (min(augment.sizes), max(augment.sizes)),
        "longest": augment.max_size,
        "crop": augment.crop,
        "crop_longest": augment.max_size if augment.rules.crop_within_longest else 0,
        "flip": augment.flip,
        "filter": FILTERS[augment.filter],
        "empty": "kept" if augment.rules.without_objects else "left out",
        "padding": f"images of {PADDED[job.data.pad]}, to {augment.pad_multiple}",
        "batches": "of like size in the step" if job.data.by_size else "at random",
        "precision": job.train.precision,
        "average": optim.ema_decay,
        "loss": (loss.classification, loss.l1, loss.giou),
        "matching": (loss.match_classification, loss.match_l1, loss.match_giou),
        **_model(job),
    }


def _rate(job: Job, parameter: str) -> float:
    """Return the learning rate of a parameter of that name, as `optim.lr_multipliers` decides it."""
    factors = (factor for pattern, factor in job.optim.lr_multipliers if re.search(pattern, parameter))
    return job.optim.lr * next(factors, 1.0)


def _model(job: Job) -> dict[str, object]:
    backbone, settings = job.detector.backbone, flatten(job.detector)
    path = None
    if isinstance(backbone, SwinConfig):
        dropped = "both" if backbone.drop_attention else "feed-forward"
        path = f"{backbone.drop_path}, {dropped} branches"
    return {
        "dropout": settings.get("dropout"),
        "norms": settings.get("backbone.norm"),
        "drop_path": path,
        "centers": "fixed" if settings.get("fixed_centers") else None,
    }


def compare(job: Job, official: Official) -> Iterator[Difference]:
    """Yield what differs among the settings that the authors' configuration gives."""
    ours = describe(job)
    for setting, theirs in official.settings().items():
        if not _equal(theirs, ours[setting]):
            yield Difference(job.name, setting, show(setting, theirs), show(setting, ours[setting]))


def silent(job: Job, official: Official) -> list[str]:
    """Return the titles of settings that a job has and its authors' configuration does not give."""
    ours, known = describe(job), official.settings()
    counted = {"steps", "drop_steps"} if official.steps is None else {"epochs", "drops"}
    extra = {"sampling_lr", "crop_longest", "images_per_gpu"} | counted
    return [
        f"{TITLES[setting]} ({show(setting, value)})"
        for setting, value in ours.items()
        if setting not in known and setting not in extra and value is not None
    ]


def _equal(theirs: object, ours: object) -> bool:
    if isinstance(theirs, float) and isinstance(ours, float):
        return abs(theirs - ours) <= 1e-9 * max(abs(theirs), abs(ours))
    return theirs == ours


def show(setting: str, value: object) -> str:
    """Return a value as a page shows it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if setting == "crop_longest":
        return f"{value} px" if value else "no limit"
    if isinstance(value, tuple):
        return ", ".join(show(setting, part) for part in value)
    if isinstance(value, int):
        return f"{value:,}" if value >= 10_000 else str(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def find_all(jobs: Iterable[Job]) -> list[Difference]:
    """Return every difference of the jobs that have an official recipe."""
    return [d for job in jobs if job.name in OFFICIAL for d in compare(job, OFFICIAL[job.name])]
