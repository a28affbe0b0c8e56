"""Training in this process, without Ray: for a debugger, and for torchrun."""

import os
from typing import TYPE_CHECKING

from qdet.config import override
from qdet.job import Job
from qdet.launching.graceful_stop import CODE, on_sigterm
from qdet.launching.preflight import check as preflight
from qdet.launching.runs import record as runs
from qdet.launching.runs import report
from qdet.launching.runs.prepared import prepare
from qdet.launching.runs.session import join_session, open_session
from qdet.tracking import NullTracker, Tracker
from qdet.training.reporting import LocalReporter, Run

if TYPE_CHECKING:
    from qdet.training.loop import Result


def run_here(job: Job) -> None:
    """Train `job` with the processes that already are there: this one, or those of torchrun.

    `train.workers` follows from them. Under torchrun every process must agree on the run's name, so it holds
    the rendezvous id.

    Raises:
        SystemExit: SIGTERM asked the run to leave, which it did with a checkpoint.
    """
    rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    job = override(job, {"train.workers": size})
    if job.store.run and int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")):
        job = override(job, {"store.resume": "auto"})  # torchrun started this very run again
    prepared = prepare(job, name=_shared_name(job))
    job = prepared.job
    preflight.check(prepared)
    if rank != 0:
        named = job.store.run or job.store.resume
        name = named or prepared.name or runs.new_name(job)
        _train(job, Run(name, job.store.path), NullTracker())
        return
    with (
        open_session(prepared) as session,
        join_session(job, session.run, rank=0) as tracker,
    ):
        result = _train(job, session.run, tracker)
        tracker.close()
        report.print_summary(session.outcome(result.step, result.metrics))


def _train(job: Job, run: Run, tracker: Tracker) -> "Result":
    """Train until the end, or until a signal asks for less; then leave with the signal's code."""
    from qdet.training.loop import train

    with on_sigterm() as asked:
        result = train(job, run=run, reporter=LocalReporter(asked), tracker=tracker)
    if result.stopped:
        raise SystemExit(CODE)
    return result


def _shared_name(job: Job) -> str | None:
    """Name a run of torchrun so that all its processes say the same, also after it restarts them."""
    rendezvous = os.environ.get("TORCHELASTIC_RUN_ID")
    if rendezvous is None:
        return None
    if rendezvous == "none":  # torchrun without --rdzv-id: one machine, whose agent is our parent
        import psutil

        agent = psutil.Process(os.getppid())
        rendezvous = f"{agent.create_time():.0f}-{agent.pid}"
    return f"{job.name}-{rendezvous}"
