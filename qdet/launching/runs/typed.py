"""Commands as a user types them: that of this process, as it is or changed, and those that come next."""

import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qdet.job_files import JOBS, PREFIX, name_job
from qdet.masking import mask
from qdet.tracking.values import stable

COMMAND = "QDET_COMMAND"
"""Environment variable: what starts the job, such as `qdet submit jobs/NAME.py --`; its flags follow."""
_NAMING = ("--store.resume", "--store.run")
_SWEEPING = ("--table",)
_SWITCHES = ("--sweep", "--json")


def command_line(arguments: Sequence[str] | None = None) -> str:
    """Return the command of this process, with secrets masked."""
    program, *flags = sys.argv if arguments is None else arguments
    return mask(shlex.join([*_program(program, os.environ), *flags]))


def resume_command(
    run: str, arguments: Sequence[str] | None = None, environment: Mapping[str, str] | None = None
) -> str:
    """Return the command, as it is typed, that resumes `run`, with secrets masked.

    Args:
        run: Its name.
        arguments: Of this process, the program first; by default those that it was started with.
        environment: By default that of this process.
    """
    program, *flags = sys.argv if arguments is None else arguments
    environment = os.environ if environment is None else environment
    words = [*_program(program, environment), *_without(flags, _NAMING), "--store.resume", run]
    return mask(shlex.join(words))


def train_command(settings: Mapping[str, Any], arguments: Sequence[str] | None = None) -> str:
    """Return the command, as it is typed, that trains once with the settings of a trial, secrets masked."""
    program, *flags = sys.argv if arguments is None else arguments
    words = [*_program(program, os.environ), *_without(flags, (*_NAMING, *_SWEEPING))]
    plain = shlex.join(word for word in words if word not in _SWITCHES)
    return mask(f"{plain} {as_flags(settings)}")


def describe_stop(run: str, step: int, steps: int, why: str = "") -> str:
    """Return where a run was stopped, why if nobody asked for it, and how to resume it."""
    reason = f" ({why})" if why else ""
    return f"stopped after step {step} of {steps}{reason}; resume with: {resume_command(run)}"


def describe_abort(run: str) -> str:
    """Return how to resume a run that is stopped at once."""
    return f"stopped without a new checkpoint; resume from the last one with: {resume_command(run)}"


def next_commands(run: str, *, program: str = "qdet", data: str | None = None) -> list[str]:
    """Return the commands that use the model of a run.

    Args:
        run: As it is named on the command line.
        program: As `qdet` is typed here.
        data: Shards to evaluate on; by default the job's own.
    """
    on = [] if data is None else ["--data", data]
    return [
        shlex.join([program, "predict", run, "photo.jpg", "--to", "predictions"]),
        shlex.join([program, "evaluate", run, *on, "--html", "report.html"]),
        shlex.join([program, "export", run, "--to", "model.onnx"]),
    ]


def as_flags(settings: Mapping[str, Any]) -> str:
    """Return settings as they are typed on the command line, numbers with four digits.

    >>> as_flags({"optim.lr": 2.00001e-5, "detector.queries": 100})
    '--optim.lr 2e-05 --detector.queries 100'
    """
    return " ".join(
        f"--{path.replace('_', '-')} {shlex.quote(show_value(value, 4))}" for path, value in settings.items()
    )


def show_value(value: Any, digits: int = 3) -> str:
    """Return a setting's value, a float with so many digits."""
    return f"{value:.{digits}g}" if isinstance(value, float) else stable(value)


def _program(program: str, environment: Mapping[str, str]) -> list[str]:
    if given := environment.get(COMMAND):
        return shlex.split(given)
    if "TORCHELASTIC_RUN_ID" in environment:
        return ["torchrun", "--nproc-per-node", environment.get("LOCAL_WORLD_SIZE", "1"), program]
    path = Path(program)
    if path.is_absolute() and path.parent == JOBS:  # one that comes with qdet
        named = name_job(path)
        return ["qdet", "run", named, "--"] if named.startswith(PREFIX) else ["python", named]
    if path.name == "__main__.py":
        return ["python", "-m", path.parent.name]
    return ["python", program] if path.suffix == ".py" else [path.name]


def _without(flags: Sequence[str], names: Sequence[str]) -> list[str]:
    """Return the command line without some flags and their values."""
    kept: list[str] = []
    skip = False
    for flag in flags:
        if flag.startswith("--"):
            skip = flag.partition("=")[0] in names or flag.startswith("--sweep.")
        if not skip:
            kept.append(flag)
    return kept
