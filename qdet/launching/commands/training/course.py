"""What `qdet train` does: convert, choose settings, train, and score the test images once."""

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qdet.config import override, restore
from qdet.console import open_console
from qdet.errors import CheckpointError, ConfigError
from qdet.job import Job, StoreConfig
from qdet.job_files import find_job
from qdet.launching import cli, paths
from qdet.launching.commands.training.datasets import Request, find_shards, gather_facts
from qdet.launching.runs import record, report
from qdet.launching.runs.typed import next_commands
from qdet.recipes import Recipe, read
from qdet.small_data import DataFacts, Setting, choose_settings, values

DEMO = "demo"
CPU_SIDE, GPU_SIDE = 320, 800
"""Largest short side in pixels of resized images, without and with a GPU."""
CPU_WORKERS = 2
NOT_TRAINING = ("--dry-run", "--help", "-h")
"""Job flags with which nothing is trained."""


def train_on(request: Request, flags: Sequence[str], *, job_file: str | None, source: str | None) -> None:
    """Train on a dataset, and score its test images.

    Args:
        request: The data.
        flags: Command line of the job, which wins over what is chosen here.
        job_file: The job; None: that of the model to start from.
        source: The model to start from; None: the demo's, or with a job the weights of its backbone.

    Raises:
        QdetError: The data, the model or a setting cannot be used.
        SystemExit: Training failed or was stopped; how to resume has been printed.
    """
    shards = find_shards(request)
    facts = gather_facts(shards["train"])
    source = source or (None if job_file else DEMO)
    name = re.sub(r"[^\w-]+", "_", Path(os.path.realpath(request.data)).name).strip("_") or "data"
    base, flags = choose_base(job_file, source or DEMO, flags)
    job, settings = plan(base, source, facts, shards, name=name)
    print(show(facts, settings), flush=True)
    wanted = cli.parse(Recipe(job=job), flags)
    if wanted.store.resume:
        job = override(job, {"store.init_from": None})
    trains = not any(flag in NOT_TRAINING for flag in flags)
    if trains and not wanted.store.run and not wanted.store.resume:
        flags = [*flags, "--store.run", record.claim_name(paths.resolve(wanted))]
    os.environ[report.BRIEF] = "1"  # what comes next is printed here, behind the score
    cli.launch(job, args=flags)
    if trains:
        finish(cli.parse(Recipe(job=job), flags), shards)


def choose_base(job_file: str | None, source: str, flags: Sequence[str]) -> tuple[Job, list[str]]:
    """Return the job whose detector is trained, and the flags that do not choose it.

    Args:
        job_file: A job's file or `qdet:NAME`, of which flags may choose a variant or the laptop size; None:
            the job that the model `source` was trained by.
        source: The model to start from.
        flags: Command line of the job.
    """
    recipe = read(find_job(job_file)) if job_file else Recipe(job=_job_of(source))
    return cli.choose_job(recipe, flags)


def plan(
    base: Job, source: str | None, facts: DataFacts, shards: Mapping[str, str], *, name: str
) -> tuple[Job, dict[str, Setting]]:
    """Return what is trained, and the settings that were chosen for the data.

    Args:
        base: The job whose detector is trained.
        source: The model to start from; None: from the backbone's weights.
        facts: About the training images.
        shards: Folder of every split.
        name: Name of the job.
    """
    gpus = _count_gpus()
    base = override(base, {"name": name, "train.accelerator": "auto" if gpus else "cpu"})
    workers, most = (gpus, GPU_SIDE) if gpus else (min(CPU_WORKERS, os.cpu_count() or 1), CPU_SIDE)
    settings = choose_settings(facts, base, workers=workers, most=most)
    given: dict[str, Any] = {
        "data.train": shards["train"],
        "data.val": shards["val"],
        "data.categories": None,
        "store": StoreConfig(init_from=source),
    }
    return override(base, values(settings) | given), settings


def show(facts: DataFacts, settings: Mapping[str, Setting]) -> str:
    """List the settings that were chosen, as flags that change them, with the reasons."""
    rows = [(f"--{path.replace('_', '-')} {_as_flag(s.value)}", s.reason) for path, s in settings.items()]
    width = max(len(flag) for flag, _ in rows)
    head = f"settings for {facts.describe()} (change them behind --):"
    return "\n".join([head, *(f"  {flag:<{width}}  {reason}" for flag, reason in rows)])


def finish(job: Job, shards: Mapping[str, str]) -> None:
    """Score the best checkpoint on the test images, and say what can be done with the model."""
    run = paths.shorten(f"{paths.absolute(job.store.path)}/{job.store.run or job.store.resume}")
    if "test" in shards:
        score(run, shards["test"])
    data = shards.get("test", shards["val"])
    qdet = paths.program("qdet")
    commands = [
        *next_commands(run, program=qdet, data=paths.shorten(data)),
        shlex.join([qdet, "train", "--data", "OTHER", "--from", run]),
        shlex.join([qdet, "ui"]),
    ]
    print("next:", *(f"  {command}" for command in commands), sep="\n", flush=True)


def score(run: str, test: str) -> None:
    """Evaluate a run's best checkpoint on the test images, by which nothing was chosen."""
    from qdet.inference.judging.judge import evaluate
    from qdet.inference.load import load

    print(f"\nthe best checkpoint by val/AP, on the test images in {paths.shorten(test)}:", flush=True)
    report = evaluate(load(run, announce=print), test)
    open_console().print(report.table())
    print(f"test: AP={report.coco.AP:.4f} AP50={report.coco.AP50:.4f}", flush=True)


def _job_of(source: str) -> Job:
    """Return the job that a model was trained by.

    Raises:
        ConfigError: There is no such model, or it was converted and has no job.
    """
    from qdet.inference import origin

    try:
        found = origin.describe(origin.locate(source, announce=print))
        return restore(Job, found.job)
    except (CheckpointError, TypeError) as error:
        raise ConfigError(f"--from {source}: {error}; name the job to train by --job qdet:NAME") from error


def _count_gpus() -> int:
    import torch

    return torch.cuda.device_count()


def _as_flag(value: Any) -> str:
    if isinstance(value, tuple):
        return shlex.join(map(str, value))
    return f"{value:.4g}" if isinstance(value, float) else shlex.quote(str(value))
