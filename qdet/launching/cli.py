"""The one entry point of every job file: read the command line, then train, sweep or print."""

import argparse
import io
import json
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from qdet.config import flatten, override
from qdet.errors import ConfigError
from qdet.job import Job, Sweep
from qdet.launching.display.output import detached_output
from qdet.launching.exit_status import exit_on_user_error
from qdet.launching.flag_types import REGISTRY
from qdet.launching.preflight.plan import Machines
from qdet.masking import mask
from qdet.recipes import Published, Recipe, Table, Variant, list_choices
from qdet.storage.proxies import exempt_loopback_here

if TYPE_CHECKING:
    from qdet.training.hooks.callbacks import Callbacks

CONFIG = (tyro.conf.AvoidSubcommands, tyro.conf.FlagCreatePairsOff)


@dataclass(frozen=True, kw_only=True)
class _Command:
    job: Annotated[Job, tyro.conf.arg(name="")]
    space: Annotated[Sweep, tyro.conf.arg(name="sweep")]
    machines: Annotated[Machines, tyro.conf.arg(name="")] = field(default_factory=Machines)
    variant: str | None = None
    """Start from this variant of the job, listed above; other flags change it further."""
    table: str | None = None
    """Train every row of this ablation table, listed above; none is stopped early."""
    demo: bool = False
    """Start from this job's laptop size; other flags change it further."""
    sweep: bool = False
    """Search the job's sweep space with Ray Tune instead of training once."""
    dry_run: bool = False
    """Print what the job is and what it takes: parameters, MACs, memory, steps, hours and cost; and stop."""
    local: bool = False
    """Train in this process, without Ray; implied by torchrun."""
    json: bool = False
    """Print what a dry run or a sweep finds as one JSON object, and everything else on stderr."""
    ray_address: str | None = None
    """Ray cluster to join: host:port, auto or local; by default RAY_ADDRESS or the head of `qdet head up`."""
    ray_wait: float = 60.0
    """Seconds to wait for a cluster that is too small for the job."""
    base: tyro.conf.Suppress[tyro.conf.Fixed[Job | None]] = None
    """The job before other flags changed it."""


def launch(
    job: Job,
    *,
    sweep: Sweep | None = None,
    published: Published | None = None,
    variants: Mapping[str, Variant] | None = None,
    tables: Mapping[str, Table] | None = None,
    demo: Mapping[str, Any] | None = None,
    callbacks: Sequence["Callbacks"] = (),
    args: Sequence[str] | None = None,
) -> None:
    """Run `job` as the command line asks: train it once, search its `sweep`, or print it.

    Args:
        job: What runs unless flags change it.
        sweep: What `--sweep` searches.
        published: The paper's numbers, which `--help` shows.
        variants: What `--variant NAME` runs instead.
        tables: What `--table NAME` trains, row by row.
        demo: Dotted paths that `--demo` sets on top of `job.demo()`, such as the job's own learning rate.
        callbacks: Called at steps, evaluations, checkpoints and the end, beside the training.
        args: Command line; by default the process's.
    """
    recipe = Recipe(
        job=job,
        sweep=sweep,
        demo=demo or {},
        published=published,
        variants=variants or {},
        tables=tables or {},
    )
    exempt_loopback_here()
    arguments = list(sys.argv[1:] if args is None else args)
    exit_on_user_error(lambda: _run(_parse(recipe, arguments), callbacks))


def parse(recipe: Recipe, args: Sequence[str]) -> Job:
    """Return the job that a recipe's command line chooses and changes; nothing runs."""
    return _parse(recipe, list(args)).job


def _parse(recipe: Recipe, arguments: list[str]) -> _Command:
    default = _choose(recipe, arguments)

    command = _read(arguments, default, list_choices(recipe))
    command = replace(command, job=_name_lr_batch(command.job, default.job))
    if command.demo and command.space.scheduler == "pbt":
        from qdet.launching.runs.sweeps.population import searchable

        command = replace(command, space=searchable(command.space))
    if command.table is not None:
        before, after = flatten(default.job), flatten(command.job)
        for path in command.space.space:
            if before[path] != after[path]:
                flag = path.replace("_", "-")
                raise ConfigError(f"--table {command.table} tries values of --{flag}: leave that flag out")
    return command


def _name_lr_batch(job: Job, own: Job) -> Job:
    """Return a job whose learning rate follows the batch size, saying for which it is: the job file's own."""
    if job.optim.scale_lr == "none" or job.optim.lr_batch_size is not None:
        return job
    return override(job, {"optim.lr_batch_size": own.train.batch_size})


def _read(arguments: list[str], default: _Command, choices: str) -> _Command:
    description = "\n\n".join(filter(None, (sys.modules["__main__"].__doc__, choices)))

    def read(args: list[str]) -> _Command:
        about: dict[str, Any] = {"description": description, "config": CONFIG, "registry": REGISTRY}
        return tyro.cli(_Command, default=default, args=args, **about)

    shown = [mask(argument) for argument in arguments]
    if shown == arguments:
        return read(arguments)
    try:  # an error repeats what could not be read: it must not repeat a secret
        with redirect_stderr(io.StringIO()):
            return read(arguments)
    except SystemExit:
        read(shown)
        raise


def choose_job(recipe: Recipe, args: Sequence[str]) -> tuple[Job, list[str]]:
    """Return the job that `--variant` and `--demo` choose, and the other arguments.

    Raises:
        ConfigError: There is no such variant.
    """
    chosen, rest = _choices().parse_known_args(args)
    return _choose(recipe, list(args)).job, [*(("--table", chosen.table) if chosen.table else ()), *rest]


def _choices() -> argparse.ArgumentParser:
    """Return the parser of the flags that decide what all others change: variant, table and demo."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--variant", nargs="?")  # the parser of all flags refuses a missing name
    first.add_argument("--table", nargs="?")
    first.add_argument("--demo", action="store_true")
    return first


def _choose(recipe: Recipe, arguments: list[str]) -> _Command:
    chosen, _ = _choices().parse_known_args(arguments)
    job = recipe.chosen(chosen.variant, chosen.table)
    space = recipe.sweep or Sweep(space={})
    if chosen.table is not None:
        space = recipe.table(chosen.table).sweep(job)
    if not chosen.demo:
        return _Command(job=job, space=space, base=job)
    small = job.demo(recipe.demo)
    space = space.demo(small) if space.space and chosen.table is None else space
    return _Command(job=small, space=space, base=small)


def _run(command: _Command, callbacks: Sequence["Callbacks"]) -> None:
    if callbacks:
        from qdet.training.hooks.calling import check_callbacks

        check_callbacks(callbacks, sent=not (command.local or _under_torchrun()))
    sweeps = command.sweep or command.table is not None
    if not command.json:
        with nullcontext() if command.dry_run else detached_output():
            _start(command, callbacks, sweeps=sweeps)
        return
    if not (command.dry_run or sweeps):
        raise ConfigError("--json goes with --dry-run, --sweep or --table; `qdet runs --json` lists runs")
    with redirect_stdout(sys.stderr):
        found = _start(command, callbacks, sweeps=sweeps)
    print(json.dumps(found if isinstance(found, dict) else found.as_json(), indent=1))


def _start(command: _Command, callbacks: Sequence["Callbacks"], *, sweeps: bool) -> Any:
    """Do what the command asks; return what --json prints, or a `Swept`."""
    job = command.job
    if sweeps:
        if not command.space.space:
            raise ConfigError(
                f"--sweep: {job.name} has nothing to search; its file passes no sweep to launch()"
            )
        command.space.check(job)
        if job.store.resume not in (None, "auto"):
            raise ConfigError(
                f"--store.resume {job.store.resume} resumes one run, in which no trial can train; a sweep "
                "resumes when it is started again under the same name: --store.run NAME"
            )
    if command.dry_run:
        from qdet.launching.preflight.dry_run import describe
        from qdet.launching.runs.prepared import prepare

        prepared = prepare(command.machines.apply_to(job))
        return describe(prepared, prepare(command.base).job if command.base else None, command.machines)
    if command.machines.given:
        flag = command.machines.given[0]
        raise ConfigError(f"{flag} goes with --dry-run; a run trains on --train.workers, wherever they fit")
    if sweeps:
        from qdet.launching.ray_backend.sweeping.search import search

        address, wait = command.ray_address, command.ray_wait
        return search(job, command.space, callbacks=callbacks, address=address, wait=wait)
    if command.local or _under_torchrun():
        from qdet.launching.local import run_locally

        run_locally(job, callbacks)
    else:
        from qdet.launching.ray_backend.train import run_on_ray

        run_on_ray(job, callbacks=callbacks, address=command.ray_address, wait=command.ray_wait)
    return None


def _under_torchrun() -> bool:
    return "TORCHELASTIC_RUN_ID" in os.environ or {"RANK", "WORLD_SIZE"} <= os.environ.keys()
