"""Train the rows of a published table, each as a sweep over seeds, and record what they reach."""

import contextlib
import datetime
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from qdet.checkpoint import open_folder
from qdet.config import override
from qdet.errors import ConfigError, StorageError
from qdet.job import Job, Sweep
from qdet.launching.runs.sweeps.record import SweepStore, Trial
from qdet.search import Each
from qdet.zoo.certificates.results import Curve, Measured, Results
from qdet.zoo.certificates.tables import Claim, Row, claims, find

METRIC = "val/AP"
RATE_SEED = 1000
"""Seed of the trainings that choose a learning rate; none of the table's own."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How the rows of a table are trained."""

    claim: Claim
    steps: int
    seeds: int
    data: Path
    """Folder with `train` and `val`."""
    store: str
    concurrent: int
    address: str | None
    wait: float

    def job(self, row: Row) -> Job:
        """Return the job of a row, but for its seed and its learning rate."""
        return override(
            row.small(),
            {
                "name": f"certify-{slug(self.claim.name)}-{slug(row.name)}",
                "data.train": str(self.data / "train"),
                "data.val": str(self.data / "val"),
                "train.steps": self.steps,
                "train.workers": 1,
                "train.precision": "fp32",  # what every machine computes alike
                "train.eval_every": 1,
                "train.checkpoint_every": 100_000,
                "eval.pictures": 0,
                "store.path": self.store,
            },
        )

    def scale(self) -> dict[str, Any]:
        """Return what all rows share, without which they cannot be compared."""
        job = self.job(self.claim.rows[0])
        return {
            "steps": self.steps,
            "images_per_step": job.train.batch_size,
            "precision": job.train.precision,
            "ema_decay": job.optim.ema_decay,
            "train_digest": job.data.open_train().digest,
            "val_digest": job.data.open(job.data.val).digest,
            "backbone": repr(job.detector.backbone),
        }


def measure_table(plan: Plan, path: Path) -> Iterator[Results]:
    """Train what `path` lacks of a table; yield the results after each row, once they are written.

    Raises:
        ConfigError: The file has rows of another scale.
        QdetError: A row cannot be trained.
    """
    results = open_results(plan, path)
    for row in plan.claim.rows:
        known = results.rows.get(row.name)
        if known is not None and set(range(plan.seeds)) <= known.seeds.keys():
            continue
        results = results.put(row.name, measure_row(plan, row, known, path))
        results.write(path)
        yield results


def open_results(plan: Plan, path: Path) -> Results:
    """Return what a file holds of the table, or results without rows.

    Raises:
        ConfigError: They are of another table or scale.
    """
    scale = plan.scale()
    if not path.is_file():
        return Results(table=plan.claim.name, scale=scale)
    found = Results.read(path)
    if found.table != plan.claim.name:
        raise ConfigError(f"{path} holds the table {found.table}, not {plan.claim.name}")
    found.require(scale, path)
    return found


def measure_row(plan: Plan, row: Row, known: Measured | None, path: Path) -> Measured:
    """Train the seeds of a row that are not known, after its learning rates where the table tries some.

    Seeds of the same job that stand in another table's file beside `path` are taken over.
    """
    started, job = time.monotonic(), plan.job(row)
    rates = dict(known.rates) if known else _try_rates(plan, job)
    rate = known.rate if known else _best(rates, job)
    trained = override(job, {"optim.lr": rate})
    known = known or _find_elsewhere(plan, trained, path)
    seeds = dict(known.seeds) if known else {}
    missing = [seed for seed in range(plan.seeds) if seed not in seeds]
    if known and not missing:
        return replace(known, rates=rates)
    suffix = f"seeds-{missing[0]}-{missing[-1]}"
    curves = _train(plan, trained, "train.seed", missing, suffix=suffix)
    parameters, macs = _count(trained)
    return Measured(
        parameters=parameters,
        macs=macs,
        rate=rate,
        rates=rates,
        seeds=seeds | dict(zip(missing, curves, strict=True)),
        source=known.source if known else "",
        machine=find_machine(plan.store, f"{trained.name}-{suffix}", trials=len(missing)),
        hours=_add_hours(known, time.monotonic() - started),
        versions={name: version(name) for name in ("qdet", "torch", "numpy")},
        day=datetime.datetime.now(datetime.UTC).date().isoformat(),
    )


def find_machine(store: str, run: str, *, trials: int) -> str:
    """Return which cards or processors the trials of a sweep began on, as far as recorded."""
    from qdet.launching.runs.sweeps.session import trial_name
    from qdet.training.beginning.record import read_beginning

    found = set()
    for number in range(1, trials + 1):
        name = trial_name(run, Trial(number=number, settings={}).label)
        with contextlib.suppress(StorageError):
            if beginning := read_beginning(open_folder(store).child(name)):
                found.add(beginning.conditions.processor)
    return "; ".join(sorted(found)) or "an unknown machine"


def _add_hours(known: Measured | None, seconds: float) -> float | None:
    """Return the hours that a row has taken with these seconds; None if those before are not known."""
    before = 0.0 if known is None else known.hours
    return None if before is None else before + seconds / 3600


def _find_elsewhere(plan: Plan, job: Job, path: Path) -> Measured | None:
    """Return the row of another table that was trained with the same job at the same scale, if one was."""
    scale = plan.scale()
    for name, file in paths_of(claims(), path.parent).items():
        if file == path or (results := Results.read(file)).scale != scale:
            continue
        other = replace(plan, claim=find(name))
        for row in other.claim.rows:
            theirs = results.rows.get(row.name)
            if theirs is None or theirs.source:
                continue
            if replace(override(other.job(row), {"optim.lr": theirs.rate}), name=job.name) == job:
                return replace(theirs, source=f"{name}, {row.name}")
    return None


def _try_rates(plan: Plan, job: Job) -> dict[str, float]:
    if not plan.claim.rates:
        return {}
    seeded = override(job, {"train.seed": RATE_SEED})
    curves = _train(plan, seeded, "optim.lr", plan.claim.rates, suffix="rates")
    return {f"{rate:g}": curve.last for rate, curve in zip(plan.claim.rates, curves, strict=True)}


def _best(rates: Mapping[str, float], job: Job) -> float:
    return float(max(rates, key=lambda rate: rates[rate])) if rates else job.optim.lr


def _train(plan: Plan, job: Job, setting: str, values: Sequence[Any], *, suffix: str) -> list[Curve]:
    """Train a job with each value of a setting, in a sweep that resumes by its name; return their curves."""
    from qdet.launching.ray_backend.sweeping.search import search

    sweep = Sweep(
        space={setting: Each(tuple(values))},
        metric=METRIC,
        trials=1,
        scheduler="none",
        concurrent=plan.concurrent,
    )
    named = override(job, {"store.run": f"{job.name}-{suffix}"})
    search(named, sweep, address=plan.address, wait=plan.wait, advice=False)
    trials = SweepStore.at(named.store.path, str(named.store.run)).trials()
    return [_curve(trials[number]) for number in range(1, len(values) + 1)]


def _curve(trial: Trial) -> Curve:
    """Return AP over steps of a trial.

    Raises:
        ConfigError: It did not end.
    """
    if trial.state != "finished":
        raise ConfigError(
            f"trial {trial.label} {trial.state}: {trial.error}; the same command tries the rest"
        )
    reports = sorted(trial.reports, key=lambda entry: entry.step)
    return Curve(
        steps=tuple(entry.step for entry in reports),
        ap=tuple(entry.metrics.get(METRIC, 0.0) for entry in reports),
    )


def _count(job: Job) -> tuple[int, int]:
    """Return parameters, and multiply-accumulates of one image at the largest size."""
    import torch

    from qdet.detectors.complexity import count_macs, count_parameters

    size = job.data.augment.max_size
    with torch.device("meta"):
        detector = job.detector.build(len(job.data.open_train().categories))
    macs = count_macs(detector, torch.empty(1, 3, size, size), torch.tensor([[size, size]]))
    return count_parameters(detector), macs


def slug(name: str) -> str:
    """Return a name as files and runs have it.

    >>> slug("adamixer_r50:points_in")
    'adamixer_r50-points_in'
    """
    return re.sub(r"[^A-Za-z0-9_.]+", "-", name)


def paths_of(tables: Iterable[str], folder: Path) -> dict[str, Path]:
    """Return the file of each table that has one, by its name."""
    files = {name: folder / f"{slug(name)}.json" for name in tables}
    return {name: path for name, path in files.items() if path.is_file()}
