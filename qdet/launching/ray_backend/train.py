"""One training on a Ray cluster: Ray Train starts the workers and replaces the dead.

The driver checks the job, joins the cluster, opens the MLflow run and then waits; every worker runs
`qdet.training.loop.train`, which knows nothing of Ray.
"""

import os
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from qdet.errors import ConfigError, TrainingError
from qdet.job import Job
from qdet.launching import graceful_stop as leaving
from qdet.launching import paths
from qdet.launching.preflight import check as preflight
from qdet.launching.ray_backend import capacity, connect, failures
from qdet.launching.ray_backend.interruptible import Ask, call_interruptibly
from qdet.launching.ray_backend.masked_errors import masks_errors
from qdet.launching.runs import report
from qdet.launching.runs.prepared import prepare
from qdet.launching.runs.session import open_session
from qdet.tracking import tracking_environment
from qdet.training.reporting import Run

if TYPE_CHECKING:
    from ray.train import UserCallback

RAY_TRAIN_SETTINGS = {
    # Ray Train looks after its workers, and takes their reports, this often; at 2 s a report costs 1.2 s.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "1",
    # Otherwise everything that a worker prints arrives twice.
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
}

START_TIMEOUT = "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"
START_TIMEOUTS = {False: "60", True: "20"}
"""Seconds that Ray Train waits for room for a number of workers, fixed or elastic.

For some 20 s it still counts on a node that has died, and asks for workers there: with a range of workers the
next number is tried after that, with a fixed one there is none to try.
"""
GROWTH_CHECK = "QDET_GROWTH_CHECK_S"
"""Environment variable: seconds between looks for room for more workers, in a job with a range of them."""
GROWTH_CHECK_SECONDS = 30.0


def run_on_ray(job: Job, *, address: str | None = None, wait: float = 60.0) -> None:
    """Train `job` on a Ray cluster and print how it ended.

    Args:
        job: What to train.
        address: The cluster to join; see `connect`.
        wait: Seconds to wait for nodes where the cluster is too small.

    Raises:
        QdetError: The job cannot run, or its training failed; the message is the cause.
    """
    prepared = prepare(job)
    job = prepared.job
    preflight.check(prepared)
    connection = connect.connect(address)
    try:
        gpu = capacity.wait_for(job.train, seconds=0.0 if connection.private else wait)
        with open_session(prepared) as session:
            device = "GPUs" if gpu else "CPUs"
            print(f"run {session.run.name}: {job.train.workers} workers on {device}", flush=True)
            result = _fit_until_asked(job, session.run, gpu=gpu)
            connect.leave()
            if result["stopped"]:
                raise SystemExit(leaving.CODE)
            report.print_summary(session.outcome(result["step"], result["metrics"]))
    finally:
        connect.leave()


def _fit_until_asked(job: Job, run: Run, *, gpu: bool) -> dict[str, Any]:
    """Train, and bring a SIGTERM to this process to the workers as a request to leave with a checkpoint."""
    messenger = leaving.Messenger(run.name)
    try:
        with leaving.on_sigterm() as asked:
            return fit(job, run, gpu=gpu, ask=Ask(asked, messenger.ask, leaving.GRACE))
    except TrainingError as error:
        advice = failures.how_to_go_on(run.name, job.train.max_failures)
        raise TrainingError(f"{str(error).rstrip('.')}. {advice}") from error


def fit(
    job: Job, run: Run, *, gpu: bool, callbacks: Sequence["UserCallback"] = (), ask: Ask | None = None
) -> dict[str, Any]:
    """Train `job` on the cluster that this process has joined; returns how `train` ended.

    Args:
        job: What to train.
        run: Who it is.
        gpu: What the workers train on.
        callbacks: Of Ray Train.
        ask: What to do where somebody asks the run to leave.

    Raises:
        SystemExit: Asked to leave, the workers took too long.
        QdetError: A worker met what restarting does not mend.
        TrainingError: Workers failed more often than `train.max_failures`.
    """
    from ray.train import (
        FailureConfig,
        LoggingConfig,
        RunConfig,
        ScalingConfig,
        TrainingFailedError,
    )
    from ray.train.torch import TorchConfig, TorchTrainer

    for name, value in RAY_TRAIN_SETTINGS.items():
        os.environ.setdefault(name, value)
    watched = not _alone()  # nobody will preempt this machine
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", str(int(watched)))
    train = job.train
    elastic = train.least_workers < train.most_workers
    os.environ.setdefault(START_TIMEOUT, START_TIMEOUTS[elastic])
    trainer = TorchTrainer(
        # Bound here: of `train_loop_config` Ray shows all on its dashboard.
        partial(_worker, job, run, watched=watched, tracking=tracking_variables()),
        scaling_config=ScalingConfig(
            num_workers=(train.least_workers, train.most_workers) if elastic else train.most_workers,
            use_gpu=gpu,
            resources_per_worker=_resources(job, gpu=gpu),
            elastic_resize_monitor_interval_s=_growth_check(),
        ),
        torch_config=TorchConfig(backend="nccl" if gpu else "gloo", timeout_s=train.timeout),
        run_config=RunConfig(
            name=run.name,
            storage_path=run.store,
            failure_config=FailureConfig(max_failures=train.max_failures),
            worker_runtime_env={"env_vars": worker_environment(job, gpu=gpu)},
            callbacks=[failures.stop_at_user_errors(), *callbacks],
            logging_config=LoggingConfig(log_level="WARNING"),
        ),
    )
    try:
        return call_interruptibly(trainer.fit, ask).return_value or {}
    except TrainingFailedError as error:
        raise failures.cause_of(error) from error


def worker_environment(job: Job, *, gpu: bool) -> dict[str, str]:
    """Return the variables that every worker starts with."""
    threads = str(job.train.cpus_per_worker)
    variables = {
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        # A waiting thread that spins takes the core from its neighbour: 6 to 12 times slower when it is busy.
        "OMP_WAIT_POLICY": "PASSIVE",
        paths.ROOT: str(paths.root()),
    }
    if not gpu:
        variables["DS_ACCELERATOR"] = "cpu"
        if _all_on_loopback():
            variables["GLOO_SOCKET_IFNAME"] = "lo"
    return variables


def tracking_variables() -> dict[str, str]:
    """Return the variables by which workers find MLflow.

    An address may hold a password, and Ray logs what it starts a process with: workers set these themselves.
    """
    return tracking_environment() | {paths.TRACKING: paths.tracking_uri()}


@masks_errors
def _worker(job: Job, run: Run, *, watched: bool, tracking: Mapping[str, str]) -> dict[str, Any]:
    """What every Ray worker runs."""
    import logging

    import ray.train

    from qdet.launching import graceful_stop as leaving
    from qdet.launching.ray_backend.reporter import RayReporter
    from qdet.launching.runs.session import join_session
    from qdet.training.loop import train

    os.environ.update(tracking)
    logging.disable(logging.INFO)  # Ray Train tells of every report on every rank, others of every evaluation
    rank = ray.train.get_context().get_world_rank()
    with join_session(job, run, rank=rank) as tracker:
        request = leaving.request_of_the_driver(run.name) if rank == 0 else leaving.Request()
        reporter = RayReporter(request, watched=watched)
        result = train(job, run=run, reporter=reporter, tracker=tracker)
    return {"step": result.step, "metrics": dict(result.metrics), "stopped": result.stopped}


def _resources(job: Job, *, gpu: bool) -> dict[str, float]:
    return {"CPU": job.train.cpus_per_worker, **({"GPU": 1} if gpu else {})}


def _growth_check() -> float:
    given = os.environ.get(GROWTH_CHECK, "")
    try:
        return float(given or GROWTH_CHECK_SECONDS)
    except ValueError:
        raise ConfigError(f"{GROWTH_CHECK}={given}: not a number of seconds") from None


def _addresses() -> list[str]:
    import ray

    return [node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]]


def _alone() -> bool:
    """Whether the cluster is this machine, reached by its loopback address."""
    return len(_addresses()) == 1 and _all_on_loopback()


def _all_on_loopback() -> bool:
    """Whether all nodes are on this machine: one at 127.0.0.1 or, in tests, several at 127.0.0.2, ..."""
    return os.uname().sysname == "Linux" and all(address.startswith("127.") for address in _addresses())
