"""A sweep on a Ray cluster: trials with other settings each, weak ones stopped early, each trial a run.

A sweep of a given name resumes when the same command is given again, whatever was killed.
"""

import math
import shutil
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from qdet.config import override
from qdet.data.plan.epoch import steps_per_epoch
from qdet.errors import ConfigError
from qdet.job import Job, Sweep
from qdet.launching.display.trials import open_trials
from qdet.launching.preflight.check import check
from qdet.launching.preflight.objects import require_ground_truth
from qdet.launching.ray_backend import capacity, connect
from qdet.launching.ray_backend.interruptible import call_interruptibly
from qdet.launching.ray_backend.sweeping.conclusion import conclude, describe_start, list_rows, row_of
from qdet.launching.ray_backend.sweeping.conduct import Conduct
from qdet.launching.ray_backend.sweeping.coordinator import start_coordinator
from qdet.launching.ray_backend.sweeping.trial import TrialPlan, plan_of
from qdet.launching.ray_backend.sweeping.tuner import build_tuner
from qdet.launching.ray_backend.worker_output import CONTROLLER, forwarded_to
from qdet.launching.ray_backend.worker_settings import tracking_variables, worker_environment
from qdet.launching.runs import record
from qdet.launching.runs.claim import hold_run
from qdet.launching.runs.prepared import Prepared, prepare
from qdet.launching.runs.sweeps.adoption import adopt_checkpoint
from qdet.launching.runs.sweeps.course import Course
from qdet.launching.runs.sweeps.curves import read_curves
from qdet.launching.runs.sweeps.population import check_population
from qdet.launching.runs.sweeps.record import STOPPED, SweepFile, SweepStore, Trial
from qdet.launching.runs.sweeps.results import log_results
from qdet.launching.runs.sweeps.rounds import Rounds
from qdet.launching.runs.sweeps.session import SweepSession, open_sweep
from qdet.launching.runs.sweeps.settings import draw_settings
from qdet.launching.runs.sweeps.standing import standing
from qdet.launching.runs.sweeps.table import Swept
from qdet.launching.runs.sweeps.tpe import require_optuna
from qdet.storage.lease import Hold
from qdet.training.reporting import PlainLines

if TYPE_CHECKING:
    from qdet.training.hooks.callbacks import Callbacks


def search(
    job: Job,
    sweep: Sweep,
    *,
    callbacks: Sequence["Callbacks"] = (),
    address: str | None = None,
    wait: float = 60.0,
    advice: bool = True,
) -> Swept:
    """Train `job` with other settings in every trial; print the results, best first, and return them.

    With `store.run` a sweep of that name resumes: trials that have ended stay as they are. Without `advice`
    it is not said how to train the best.

    Raises:
        QdetError: The sweep cannot run, or every trial failed.
    """
    prepared = _prepare(job)
    sweep.check(prepared.job)
    check_population(sweep, prepared.job)
    if sweep.search == "tpe":
        require_optuna()
    found = find_course(job.store.run, prepared, sweep) if job.store.run else None
    if found is not None and not found.waiting:
        return conclude(found, job, advice=advice)
    check(prepared)
    require_ground_truth(prepared)
    name = job.store.run or record.claim_name(replace(prepared.job, name=f"{job.name}_sweep"))
    with hold_run(prepared.job.store.path, name, take_over=job.store.take_over) as held:
        course = open_course(name, prepared, sweep, held)
        print(describe_start(course), flush=True)
        _run(
            course, prepared, replace(job, store=replace(job.store, run=None)), held, callbacks, address, wait
        )
    return conclude(course, job, advice=advice)


def require_evaluation(job: Job) -> Job:
    """Return `job` with evaluation switched on: the scheduler decides on what evaluations report."""
    return override(job, {"train.eval_every": max(job.train.eval_every, 1)})


def find_course(name: str, prepared: Prepared, sweep: Sweep) -> Course | None:
    """Return the course of the sweep of that name in the job's store; None where there is none.

    Raises:
        ConfigError: The name is that of a run, or of a sweep that searches something else.
    """
    store = SweepStore.at(prepared.job.store.path, name)
    found = store.find(SweepFile.of(name, prepared.job, sweep, digest=prepared.train.digest))
    return None if found is None else Course(sweep, found[0], store, found[1])


def open_course(name: str, prepared: Prepared, sweep: Sweep, held: Hold) -> Course:
    """Return the course of a sweep whose lease this process holds; a new one is recorded first."""
    course = find_course(name, prepared, sweep)
    if course is None:
        file = SweepFile.of(name, prepared.job, sweep, digest=prepared.train.digest)
        course = Course(sweep, file, SweepStore.at(prepared.job.store.path, name))
    course.store.fence = held.fence
    course.store.write(course.file)
    return course


def count_steps(prepared: Prepared, job: Job) -> tuple[int, int]:
    """Return the optimizer steps of an epoch, and of the whole training, of a trial's job."""
    images = _count_images(prepared if job.data == prepared.job.data else Prepared(job))
    per_epoch = steps_per_epoch(images, job.train.batch_size, job.data.tail)
    return per_epoch, job.train.steps or job.train.epochs * per_epoch


def _prepare(job: Job) -> Prepared:
    own = override(job, {"store.run": None, "store.resume": None})
    return prepare(require_evaluation(own), name=f"{job.name}_sweep")  # a name for checks, which claims none


def _count_images(prepared: Prepared) -> int:
    """Size of the training set; third-party shards behind a URL are scanned for it."""
    data = prepared.job.data
    return data.count_trained(prepared.train) or len(data.open(data.train))


def _smallest(course: Course, job: Job) -> Job:
    """Return the job of the trial that takes fewest CPUs: nothing runs where that does not fit."""
    jobs: list[Job] = []
    for number in range(1, course.sweep.runs + 1):
        with suppress(ConfigError):  # of a trial whose settings do not go together, which its row says
            jobs.append(override(job, draw_settings(course.sweep, number, seed=course.file.seed)))
    return min(jobs or [job], key=lambda one: one.train.least_workers * one.train.cpus_per_worker)


def _run(
    course: Course,
    prepared: Prepared,
    shown: Job,
    held: Hold,
    callbacks: Sequence["Callbacks"],
    address: str | None,
    wait: float,
) -> None:
    """Connect to a cluster and run the trials that are left there."""
    connection = connect.connect(address)
    try:
        seconds = 0.0 if connection.private else wait
        gpu = capacity.wait_for_workers(_smallest(course, prepared.job).train, seconds=seconds)
        with open_sweep(shown, course.sweep, course.file, course.store, held) as session:
            course.file = session.file
            environment = worker_environment(prepared.job, gpu=gpu) | tracking_variables()
            given = {"sweep": course.sweep, "file": course.file}
            given |= {"callbacks": callbacks, "environment": environment}
            _run_trials(course, plan_of(prepared.job, **given), prepared, session)
            connect.disconnect()
            log_results(session, list_rows(course), read_curves(course.trials, sweep=course.sweep))
    except (KeyboardInterrupt, SystemExit):
        print(f"stopped; the same command resumes it with --store.run {course.file.name}", flush=True)
        raise
    finally:
        connect.disconnect()


def _run_trials(course: Course, plan: TrialPlan, prepared: Prepared, session: SweepSession) -> None:
    """Run the trials that are left; those that stop are ended in MLflow meanwhile."""
    with ThreadPoolExecutor(1, thread_name_prefix="qdet-trial-ends") as ends:

        def stopped(trial: Trial) -> None:
            row = row_of(course, trial)
            session.note_stop(row)
            ends.submit(session.finish_trial, row)

        counting = partial(count_steps, prepared)
        conduct = Conduct(course, plan, counting, stopped, _rounds(course, plan, counting))
        conduct.catch_up()
        for trial in list(course.trials.values()):
            if trial.state in STOPPED and not session.has_ended(trial.label):
                ends.submit(session.finish_trial, row_of(course, trial))
        if course.waiting:
            _run_tuner(conduct)


def _rounds(course: Course, plan: TrialPlan, counting: Callable[[Job], tuple[int, int]]) -> Rounds | None:
    """Return the rounds of a population; None of a sweep that has none."""
    if course.sweep.scheduler != "pbt":
        return None
    per_epoch, steps = counting(plan.job)
    adopt = partial(adopt_checkpoint, plan.job.store.path, course.file.name)
    return Rounds(course, adopt, math.ceil(steps / per_epoch))


def _run_tuner(conduct: Conduct) -> None:
    folder = Path(tempfile.mkdtemp(prefix="qdet-tune-"))
    try:
        with (
            open_trials(partial(standing, conduct.course)) as take,
            forwarded_to(PlainLines(), take, quiet=(CONTROLLER,)),
        ):
            start_coordinator()
            call_interruptibly(build_tuner(conduct, folder).fit)
    finally:
        conduct.course.close()
        shutil.rmtree(folder, ignore_errors=True)
