"""Training in this process, without Ray: for a debugger, and for torchrun."""

import os

from qdet.config import override
from qdet.job import Job
from qdet.launch import paths, preflight, report, runs
from qdet.launch.session import join_session, open_session
from qdet.tracking import NullTracker
from qdet.training.reporting import LocalReporter, Run


def run_here(job: Job) -> None:
    """Train `job` with the processes that already are there: this one, or those of torchrun.

    `train.workers` follows from them. Under torchrun every process must agree on the run's name, so it holds
    the rendezvous id.
    """
    from qdet.training.loop import train

    rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    job = paths.resolve(override(job, {"train.workers": size}))
    if job.store.run and int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")):
        job = override(job, {"store.resume": "auto"})  # torchrun started this very run again
    preflight.check(job)
    if rank != 0:
        named = job.store.run or job.store.resume
        name = named or _shared_name(job) or runs.new_name(job)
        train(job, run=Run(name, job.store.path), reporter=LocalReporter(), tracker=NullTracker())
        return
    with (
        open_session(job, name=_shared_name(job)) as session,
        join_session(job, session.run, rank=0) as tracker,
    ):
        result = train(job, run=session.run, reporter=LocalReporter(), tracker=tracker)
        tracker.close()
        report.tell(session.outcome(result.step, result.metrics))


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
