"""Train in this process, without Ray: under a debugger or torchrun."""

import os
import platform
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING

from qdet.config import override
from qdet.errors import ConfigError
from qdet.job import Job
from qdet.launching import paths
from qdet.launching.display.live import open_display
from qdet.launching.graceful_stop import catch_signals
from qdet.launching.preflight.check import check
from qdet.launching.runs import record, report, words
from qdet.launching.runs.place import Place
from qdet.launching.runs.prepared import prepare
from qdet.launching.runs.session import join_session, open_session
from qdet.launching.runs.typed import describe_abort, describe_stop
from qdet.tracking import Tracker
from qdet.training.reporting import LocalReporter, PlainLines, Run

if TYPE_CHECKING:
    from qdet.training.hooks.callbacks import Callbacks
    from qdet.training.loop import Result


def run_locally(job: Job, callbacks: Sequence["Callbacks"] = ()) -> None:
    """Train `job` in this process, as one rank of torchrun where that started it.

    The number of processes sets `train.workers`. Under torchrun all ranks must agree on the run's name, so it
    follows from the rendezvous.

    Raises:
        SystemExit: Ctrl-C or SIGTERM stopped the run, which wrote a checkpoint first.
    """
    place = Place.of_torchrun(os.environ)
    size = int(os.environ["WORLD_SIZE"]) if "RANK" in os.environ and "WORLD_SIZE" in os.environ else 1
    job = override(job, {"train.workers": size})
    if job.store.run and int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")):
        job = override(job, {"store.resume": "auto"})  # torchrun restarted this run
    prepared = prepare(job, name=_shared_name(job))
    job = prepared.job
    check(prepared)
    if place.rank != 0:
        name = job.store.run or job.store.resume or prepared.name
        if name is None:
            raise ConfigError("several processes that torchrun did not start need --store.run NAME")
        run = Run(name, job.store.path, hash=record.hash_name(name))
        with join_session(job, run, place) as tracker, catch_signals(announce=False) as stop:
            if _train(job, run, tracker, LocalReporter(stop, None), callbacks).stopped:
                raise SystemExit(stop.exit_code)
        return
    with (
        open_session(prepared) as session,
        join_session(job, session.run, place) as tracker,
    ):
        processes = "this process" if size == 1 else f"{size} processes"
        print(f"run {session.run.name}: training in {processes}", flush=True)
        with (
            catch_signals(abandoned=describe_abort(session.run.name)) as stop,
            open_display(session.run.name) if size == 1 else nullcontext(PlainLines()) as display,
        ):
            session.when_lost(stop.set)
            result = _train(job, session.run, tracker, LocalReporter(stop, display), callbacks)
        session.check_lease()
        if result.stopped:
            print(describe_stop(session.run.name, result.step, result.steps, result.why), flush=True)
            raise SystemExit(stop.exit_code)
        tracker.close()
        report.print_summary(session.outcome(result.step, result.metrics))


def _train(
    job: Job, run: Run, tracker: Tracker, reporter: LocalReporter, callbacks: Sequence["Callbacks"]
) -> "Result":
    from qdet.training.joining.rendezvous import SECRET, derive_secret  # imports PyTorch
    from qdet.training.loop import train

    if job.train.most_workers > 1 and SECRET not in os.environ:
        run = replace(run, join_secret=derive_secret(paths.secret("join-secret"), run.name))
    return train(job, run=run, reporter=reporter, tracker=tracker, callbacks=callbacks)


def _shared_name(job: Job) -> str | None:
    """Return a run name that all ranks of torchrun agree on, also after restarts; None without torchrun."""
    rendezvous = os.environ.get("TORCHELASTIC_RUN_ID")
    if rendezvous is None:
        return None
    if rendezvous == "none":  # torchrun without --rdzv-id: one machine, and the agent is our parent
        import psutil

        agent = psutil.Process(os.getppid())
        rendezvous = words.derive(f"{platform.node()} {agent.create_time():.0f} {agent.pid}")
    return f"{job.name}-{rendezvous}"
