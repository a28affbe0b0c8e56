"""One training on a Ray cluster: Ray Train starts the workers and replaces those that die.

The driver checks the job, joins the cluster, opens the MLflow run and waits; every worker runs
`qdet.training.loop.train`, which knows nothing of Ray.
"""

import os
import platform
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

from qdet.errors import ConfigError, TrainingError
from qdet.job import Job
from qdet.launching import graceful_stop
from qdet.launching.display.events import EventLines
from qdet.launching.display.live import open_display
from qdet.launching.preflight.check import check
from qdet.launching.ray_backend import capacity, connect, failures
from qdet.launching.ray_backend.failure_budget import FailureBudget, newest_step
from qdet.launching.ray_backend.interruptible import GracefulStop, call_interruptibly
from qdet.launching.ray_backend.masked_errors import mask_errors
from qdet.launching.ray_backend.placement.hosts import name_own_host
from qdet.launching.ray_backend.worker_output import forwarded_to
from qdet.launching.ray_backend.worker_settings import (
    is_single_machine,
    tracking_variables,
    worker_environment,
    worker_resources,
)
from qdet.launching.runs import report
from qdet.launching.runs.place import Place
from qdet.launching.runs.prepared import prepare
from qdet.launching.runs.session import open_session
from qdet.launching.runs.typed import describe_abort, describe_stop
from qdet.storage.surroundings import settle
from qdet.training.reporting import Display, PlainLines, Run

if TYPE_CHECKING:
    from ray.train import UserCallback

    from qdet.launching.ray_backend.trainer import ShardTrainer
    from qdet.training.hooks.callbacks import Callbacks

RAY_TRAIN_SETTINGS = {
    # How often Ray Train polls its workers' health and reports; at 2 s a report costs 1.2 s.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "1",
    # Otherwise every line of a worker arrives twice.
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
}

START_TIMEOUT = "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"
START_TIMEOUTS = {False: "60", True: "20"}
"""Seconds that Ray Train waits until all workers are placed, by whether their number is elastic.

Ray Train counts on a dead node for some 20 s and asks for workers there. After that an elastic job tries the
next smaller number; a fixed one has no other to try.
"""
GROWTH_CHECK = "QDET_GROWTH_CHECK_S"
"""Environment variable: seconds between checks whether an elastic job can grow."""
GROWTH_CHECK_SECONDS = 30.0


def run_on_ray(
    job: Job, *, callbacks: Sequence["Callbacks"] = (), address: str | None = None, wait: float = 60.0
) -> None:
    """Train `job` on a Ray cluster and print its results.

    Args:
        job: What to train.
        callbacks: The user's.
        address: The cluster to join; see `connect`.
        wait: Seconds to wait for nodes if the cluster is too small.

    Raises:
        SystemExit: Ctrl-C or SIGTERM stopped the run, after a checkpoint.
        QdetError: The job cannot run, or its training failed; the message is the cause.
    """
    prepared = prepare(job)
    job = prepared.job
    check(prepared)
    connection = connect.connect(address)
    try:
        wait = 0.0 if connection.private else wait
        gpu = capacity.wait_for_workers(job.train, seconds=wait)
        with open_session(prepared) as session:
            device, many = "GPU" if gpu else "CPU", "" if job.train.workers == 1 else "s"
            print(f"run {session.run.name}: {job.train.workers} worker{many} on {device}s", flush=True)
            with (
                graceful_stop.catch_signals(abandoned=describe_abort(session.run.name)) as requested,
                open_display(session.run.name) as display,
                forwarded_to(display),
            ):
                session.when_lost(requested.set)
                result = _fit_with_graceful_stop(
                    job, session.run, callbacks, requested, gpu=gpu, display=display, wait=wait
                )
            session.check_lease()
            if result["stopped"]:
                said = describe_stop(session.run.name, result["step"], result["steps"], result["why"])
                print(said, flush=True)
                raise SystemExit(requested.exit_code)
            connect.disconnect()
            report.print_summary(session.outcome(result["step"], result["metrics"]))
    finally:
        connect.disconnect()


def _fit_with_graceful_stop(
    job: Job,
    run: Run,
    callbacks: Sequence["Callbacks"],
    requested: graceful_stop.StopFlag,
    *,
    gpu: bool,
    display: Display,
    wait: float,
) -> dict[str, Any]:
    """Train as `fit` does; the workers stop after a checkpoint once that is requested."""
    workers = graceful_stop.WorkerStop(run.name)
    output: Display = PlainLines() if isinstance(display, PlainLines) else EventLines()
    try:
        stop = GracefulStop(requested, workers.request, graceful_stop.GRACE)
        return fit(job, run, callbacks, gpu=gpu, stop=stop, output=output, wait=wait)
    except TrainingError as error:
        advice = failures.advise_resume(run.name, job.train.max_failures)
        raise TrainingError(f"{str(error).rstrip('.')}. {advice}") from error


def fit(
    job: Job,
    run: Run,
    callbacks: Sequence["Callbacks"] = (),
    *,
    gpu: bool,
    ray_callbacks: Sequence["UserCallback"] = (),
    stop: GracefulStop | None = None,
    output: Display | None = None,
    wait: float = 60.0,
) -> dict[str, Any]:
    """Train `job` on the cluster that this process has joined.

    Args:
        job: What to train.
        run: Name and store of the run.
        callbacks: The user's, for the worker of rank 0.
        gpu: Whether the workers train on GPUs.
        ray_callbacks: For Ray Train.
        stop: How a graceful stop is requested; by default it cannot be.
        output: What rank 0 reports progress to, in its process; by default nothing.
        wait: Seconds to wait for nodes where `--train.exclude-bad-hosts` leaves too few.

    Returns:
        What rank 0 returns: `step`, `steps`, `metrics` and whether the run was `stopped` on request.

    Raises:
        SystemExit: The workers did not stop within the grace period.
        QdetError: A worker hit a user error, which no restart fixes.
        TrainingError: Workers failed more often than `train.max_failures` without a new checkpoint.
    """
    from ray.train import TrainingFailedError

    trainer = _build_trainer(
        job, run, callbacks, gpu=gpu, ray_callbacks=ray_callbacks, output=output, wait=wait
    )
    try:
        return call_interruptibly(trainer.fit, stop).return_value or {}
    except TrainingFailedError as error:
        raise failures.find_cause(error) from error


def _build_trainer(
    job: Job,
    run: Run,
    callbacks: Sequence["Callbacks"],
    *,
    gpu: bool,
    ray_callbacks: Sequence["UserCallback"],
    output: Display | None,
    wait: float = 0.0,
) -> "ShardTrainer":
    """Return a trainer that runs `_train_worker`; sets Ray Train's variables where the user has not."""
    from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig

    from qdet.launching.ray_backend.placement.bad_hosts import LeavingTrainer
    from qdet.launching.ray_backend.rendezvous import AuthenticatedTorch
    from qdet.launching.ray_backend.trainer import ShardTrainer
    from qdet.training.distributed import backend_of

    train = job.train
    budget = FailureBudget(train.max_failures, partial(newest_step, run))
    elastic = train.least_workers < train.most_workers
    watch_preemption = not is_single_machine()
    settings = RAY_TRAIN_SETTINGS | {
        "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": str(int(watch_preemption)),
        START_TIMEOUT: START_TIMEOUTS[elastic],
    }
    for name, value in settings.items():
        os.environ.setdefault(name, value)
    build = partial(LeavingTrainer, run=run, wait=wait) if train.exclude_bad_hosts else ShardTrainer
    return build(
        # Bound here, since Ray shows all of `train_loop_config` on its dashboard.
        partial(
            _train_worker,
            job,
            run,
            callbacks,
            watch_preemption=watch_preemption,
            tracking=tracking_variables(),
            output=output,
        ),
        scaling_config=ScalingConfig(
            num_workers=(train.least_workers, train.most_workers) if elastic else train.most_workers,
            use_gpu=gpu,
            resources_per_worker=worker_resources(job, gpu=gpu),
            accelerator_type=train.gpu_type if gpu else None,
            placement_strategy=train.placement.upper(),
            elastic_resize_monitor_interval_s=_growth_interval(),
        ),
        torch_config=AuthenticatedTorch(backend=backend_of(gpu=gpu), timeout_s=train.join_timeout),
        run_config=RunConfig(
            name=run.name,
            storage_path=run.store,
            failure_config=FailureConfig(max_failures=-1),  # the callback counts
            worker_runtime_env={"env_vars": worker_environment(job, gpu=gpu)},
            callbacks=[
                failures.stop_on_failures(budget),
                *ray_callbacks,
            ],
            logging_config=LoggingConfig(log_level="WARNING"),
        ),
    )


@mask_errors
def _train_worker(
    job: Job,
    run: Run,
    callbacks: Sequence["Callbacks"],
    *,
    watch_preemption: bool,
    tracking: Mapping[str, str],
    output: Display | None,
) -> dict[str, Any]:
    """Run one rank of the training in a Ray worker; return `step`, `steps`, `metrics` and `stopped`."""
    import logging

    from qdet.launching.ray_backend.reporter import RayReporter
    from qdet.launching.runs.session import join_session
    from qdet.training.loop import train

    settle()
    os.environ.update(tracking)
    logging.disable(logging.INFO)  # Ray Train logs every report on every rank
    place = _find_place()
    main = place.rank == 0
    if main and isinstance(output, PlainLines):
        print(f"{output.label}rank 0 is process {os.getpid()} on {platform.node()}", flush=True)
    watched = graceful_stop.watch_driver(run.name) if main else nullcontext(graceful_stop.StopFlag())
    with join_session(job, run, place) as tracker, watched as stop:
        shown = output if main else None
        reporter = RayReporter(stop, watch_preemption=watch_preemption, display=shown)
        host = name_own_host() if job.train.verify_every else None
        result = train(job, run=run, reporter=reporter, tracker=tracker, callbacks=callbacks, host=host)
    return asdict(result)


def _find_place() -> Place:
    import ray.train

    context = ray.train.get_context()
    return Place.among(
        rank=context.get_world_rank(),
        local_rank=context.get_local_rank(),
        node=context.get_node_rank(),
        world=context.get_world_size(),
        local_world=context.get_local_world_size(),
    )


def _growth_interval() -> float:
    given = os.environ.get(GROWTH_CHECK, "")
    try:
        return float(given or GROWTH_CHECK_SECONDS)
    except ValueError:
        raise ConfigError(f"{GROWTH_CHECK}={given}: not a number of seconds") from None
