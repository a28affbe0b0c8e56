"""What must be true before a job may start, checked before any worker does."""

from qdet.backbones.weights import check_verifiable
from qdet.data.plan.epoch import steps_per_epoch
from qdet.data.shards.categories import Categories
from qdet.errors import ConfigError
from qdet.launching.preflight import store
from qdet.launching.preflight.dry_run import COCO_CLASSES
from qdet.launching.preflight.objects import describe_missing_objects
from qdet.launching.preflight.resume import check_run
from qdet.launching.preflight.start import check_start
from qdet.launching.runs.prepared import Prepared
from qdet.tracking.loggers import check_installed


def check(prepared: Prepared) -> None:
    """Raise what would otherwise only come up once workers, sockets and weights are in place; print warnings.

    Raises:
        ConfigError: A flag names something that is not there or cannot be used.
    """
    job, train, val = prepared.job, prepared.train, prepared.val
    if train.categories and val.categories and train.categories != val.categories:
        raise ConfigError(
            f"--data.train {job.data.train} and --data.val {job.data.val} do not have the same categories: "
            + _explain_categories(train.categories, val.categories)
        )
    per_epoch = None
    if (images := job.data.count_trained(train)) is not None:
        per_epoch = steps_per_epoch(images, job.train.batch_size, job.data.tail)
    check_installed(job.track.loggers)
    if job.store.init_from and job.store.resume:
        raise ConfigError(
            "--store.init-from starts a new run and --store.resume continues an old one; give one of them"
        )
    if job.store.init_from:
        check_start(job, train.categories)
    elif _is_new(prepared):
        check_verifiable(job.detector.backbone, allow_unverified=job.store.allow_unverified)
    classes = COCO_CLASSES if train.categories is None else len(train.categories)
    steps = job.train.steps or (per_epoch and per_epoch * job.train.epochs)
    store.check(job, classes=classes, per_epoch=per_epoch, steps=steps)
    check_run(job, digest=train.digest, steps=steps)
    for warning in describe_missing_objects(prepared):
        print(warning, flush=True)


def _is_new(prepared: Prepared) -> bool:
    """Whether no run is resumed; looking at one without a name would claim it in a store not checked yet."""
    named = prepared.name or prepared.job.store.run or prepared.job.store.resume
    return not named or prepared.run.resumed is None


def _explain_categories(train: Categories, val: Categories) -> str:
    """Say which classes only one of two datasets has, or that their ids differ."""
    only = {
        flag: [name for name in one.names if name not in other.names]
        for flag, one, other in (("--data.train", train, val), ("--data.val", val, train))
    }
    if not any(only.values()):
        return "their names are, but not their ids; convert both from annotations with the same categories"
    parts = [f"only {flag} has {', '.join(names)}" for flag, names in only.items() if names]
    return f"{'; '.join(parts)}. Convert both from annotations that list the same categories"
