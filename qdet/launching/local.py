"""Train in this process, without Ray: under a debugger or torchrun."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from qdet.config import override
from qdet.job import Job
from qdet.launching.graceful_stop import EXIT_CODE, catch_sigterm
from qdet.launching.preflight.check import check
from qdet.launching.runs import record, report
from qdet.launching.runs.prepared import prepare
from qdet.launching.runs.session import Place, join_session, open_session
from qdet.tracking import Tracker
from qdet.training.reporting import LocalReporter, Run

if TYPE_CHECKING:
    from qdet.training.hooks.callbacks import Callbacks
    from qdet.training.loop import Result


def run_locally(job: Job, callbacks: Sequence["Callbacks"] = ()) -> None:
    """Train `job` in this process, as one rank of torchrun where that started it.

    The number of processes sets `train.workers`. Under torchrun all ranks must agree on the run's name, so it
    contains the rendezvous id.

    Raises:
        SystemExit: SIGTERM stopped the run, which wrote a checkpoint first.
    """
    place, size = Place.of_torchrun(os.environ), int(os.environ.get("WORLD_SIZE", "1"))
    job = override(job, {"train.workers": size})
    if job.store.run and int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")):
        job = override(job, {"store.resume": "auto"})  # torchrun restarted this run
    prepared = prepare(job, name=_shared_name(job))
    job = prepared.job
    check(prepared)
    if place.rank != 0:
        chosen = job.store.run or job.store.resume
        run = Run(chosen or prepared.name or record.new_name(job), job.store.path)
        with join_session(job, run, place) as tracker:
            _train(job, run, tracker, callbacks)
        return
    with (
        open_session(prepared) as session,
        join_session(job, session.run, place) as tracker,
    ):
        result = _train(job, session.run, tracker, callbacks)
        tracker.close()
        report.print_summary(session.outcome(result.step, result.metrics))


def _train(job: Job, run: Run, tracker: Tracker, callbacks: Sequence["Callbacks"]) -> "Result":
    """Train to the end and return the result; after a SIGTERM exit with its code instead."""
    from qdet.training.loop import train

    with catch_sigterm() as stop:
        result = train(job, run=run, reporter=LocalReporter(stop), tracker=tracker, callbacks=callbacks)
    if result.stopped:
        raise SystemExit(EXIT_CODE)
    return result


def _shared_name(job: Job) -> str | None:
    """Return a run name that all ranks of torchrun agree on, also after restarts; None without torchrun."""
    rendezvous = os.environ.get("TORCHELASTIC_RUN_ID")
    if rendezvous is None:
        return None
    if rendezvous == "none":  # torchrun without --rdzv-id: one machine, and the agent is our parent
        import psutil

        agent = psutil.Process(os.getppid())
        rendezvous = f"{agent.create_time():.0f}-{agent.pid}"
    return f"{job.name}-{rendezvous}"
