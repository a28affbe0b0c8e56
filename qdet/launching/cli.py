"""The one entry point of every job file: read the command line, then train, sweep or print."""

import io
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from qdet.errors import ConfigError
from qdet.job import Job, Sweep
from qdet.launching.exit_status import guarded
from qdet.masking import mask

CONFIG = (tyro.conf.AvoidSubcommands, tyro.conf.FlagCreatePairsOff)


@dataclass(frozen=True, kw_only=True)
class _Command:
    job: Annotated[Job, tyro.conf.arg(name="")]
    space: Annotated[Sweep, tyro.conf.arg(name="sweep")]
    demo: bool = False
    """Start from this job's laptop size; other flags change it further."""
    sweep: bool = False
    """Search the job's sweep space with Ray Tune instead of training once."""
    dry_run: bool = False
    """Print the resolved job, its parameters, MACs and memory, and stop."""
    local: bool = False
    """Train in this process, without Ray; so it is under torchrun."""
    ray_address: str | None = None
    """Ray cluster to join: host:port, auto or local; by default RAY_ADDRESS or the head on this machine."""
    ray_wait: float = 60.0
    """Seconds to wait for a cluster that is still too small for the job."""


def launch(
    job: Job,
    *,
    sweep: Sweep | None = None,
    demo: Mapping[str, Any] | None = None,
    args: Sequence[str] | None = None,
) -> None:
    """Run `job` as the command line asks: train it once, search its `sweep`, or print it.

    Args:
        job: What runs unless flags change it.
        sweep: What `--sweep` searches.
        demo: Dotted paths that `--demo` sets on top of `job.demo()`, such as the job's own learning rate.
        args: Command line; by default the process's.
    """
    arguments = list(sys.argv[1:] if args is None else args)
    guarded(lambda: _run(_parse(job, sweep, demo, arguments)))


def parse(job: Job, args: Sequence[str]) -> Job:
    """Return `job` as the flags of its command line change it; nothing runs."""
    return _parse(job, None, None, list(args)).job


def _parse(job: Job, sweep: Sweep | None, demo: Mapping[str, Any] | None, arguments: list[str]) -> _Command:
    default = _Command(
        job=job.demo(demo) if "--demo" in arguments else job,
        space=sweep or Sweep(space={}),
    )

    def read(args: list[str]) -> _Command:
        description = sys.modules["__main__"].__doc__
        return tyro.cli(_Command, default=default, args=args, description=description, config=CONFIG)

    shown = [mask(argument) for argument in arguments]
    if shown == arguments:
        return read(arguments)
    try:  # an error repeats what could not be read: it is to repeat no secret
        with redirect_stderr(io.StringIO()):
            return read(arguments)
    except SystemExit:
        read(shown)
        raise


def _run(command: _Command) -> None:
    job = command.job
    if command.sweep:
        if not command.space.space:
            raise ConfigError(
                f"--sweep: {job.name} has nothing to search; its file passes no sweep to launch()"
            )
        command.space.check(job)
    if command.dry_run:
        from qdet.launching.preflight.dry_run import describe

        describe(job)
    elif command.sweep:
        from qdet.launching.ray_backend.tune import search

        search(job, command.space, address=command.ray_address, wait=command.ray_wait)
    elif command.local or _under_torchrun():
        from qdet.launching.local import run_here

        run_here(job)
    else:
        from qdet.launching.ray_backend.train import run_on_ray

        run_on_ray(job, address=command.ray_address, wait=command.ray_wait)


def _under_torchrun() -> bool:
    return "TORCHELASTIC_RUN_ID" in os.environ or {"RANK", "WORLD_SIZE"} <= os.environ.keys()
