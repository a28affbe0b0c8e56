"""A sweep on a Ray cluster: Ray Tune draws settings, ASHA stops weak trials early, each trial is a run.

ASHA: Li et al., A System for Massively Parallel Hyperparameter Tuning, MLSys 2020,
https://arxiv.org/abs/1810.05934.

A trial is a small driver that reserves no CPU and starts Ray Train workers of its own. What they report after
each evaluation reaches the scheduler through `TuneReportCallback`.
"""

import logging
import math
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qdet.config import override
from qdet.data.plan.epoch import steps_per_epoch
from qdet.errors import TrainingError
from qdet.job import Job, Sweep
from qdet.launching import paths
from qdet.launching.preflight.check import check
from qdet.launching.preflight.objects import require_ground_truth
from qdet.launching.ray_backend import capacity, connect
from qdet.launching.ray_backend.failures import find_cause
from qdet.launching.ray_backend.interruptible import call_interruptibly
from qdet.launching.ray_backend.masked_errors import mask_errors
from qdet.launching.ray_backend.search_space import tune_space
from qdet.launching.ray_backend.train import fit
from qdet.launching.ray_backend.worker_output import forwarded_to
from qdet.launching.ray_backend.worker_settings import tracking_variables, worker_environment
from qdet.launching.runs import record
from qdet.launching.runs.prepared import Prepared, prepare
from qdet.launching.runs.session import open_session
from qdet.launching.runs.sweep import (
    Swept,
    TrialRow,
    open_sweep,
    table,
    trial_hash,
    trial_name,
    trial_number,
    trial_title,
)
from qdet.launching.runs.typed import as_flags, train_command
from qdet.training.reporting import PlainLines

if TYPE_CHECKING:
    from qdet.training.hooks.callbacks import Callbacks

REDUCTION = 3
"""ASHA promotes one in this many trials at every rung."""
# A CPU reserved by a trial's driver would be missing for its workers, but Tune rejects empty resources.
DRIVER: dict[str, float] = {"memory": 2**20}


def search(
    job: Job,
    sweep: Sweep,
    *,
    callbacks: Sequence["Callbacks"] = (),
    address: str | None = None,
    wait: float = 60.0,
) -> Swept:
    """Train `job` with `sweep.trials` settings; print the results, best first, and return them.

    Raises:
        QdetError: The sweep cannot run, or every trial failed.
    """
    prepared = prepare(require_evaluation(job))
    job = prepared.job
    sweep.check(job)
    check(prepared)
    require_ground_truth(prepared)
    connection = connect.connect(address)
    name = record.claim_name(replace(job, name=f"{job.name}_sweep"))
    try:
        gpu = capacity.wait_for_workers(job.train, seconds=0.0 if connection.private else wait)
        with open_sweep(job, sweep, name) as parent:
            print(f"sweep {name}: {sweep.runs} trials of {', '.join(sweep.space)}", flush=True)
            tuner = _build_tuner(prepared, sweep, name, callbacks, parent=parent.mlflow_run_id, gpu=gpu)
            with forwarded_to(PlainLines()):
                rows = [_make_row(result, prepared, sweep) for result in call_interruptibly(tuner.fit)]
            connect.disconnect()
            parent.finish_trials(rows)
            parent.log(rows, sweep.metric)
            print(table(rows, sweep), flush=True)
    finally:
        connect.disconnect()
    best = max((row for row in rows if row.metric is not None), key=lambda row: row.metric or 0, default=None)
    if best is None:
        raise TrainingError(
            f"all {sweep.runs} trials failed; the first: {rows[0].error if rows else 'none ran'}"
        )
    print(f"best setting: {as_flags(best.settings)}")
    print(f"train it: {train_command(best.settings)}")
    if parent.mlflow_run_id is not None:
        print(
            f"compare the trials: {shlex.quote(paths.program('qdet'))} ui, run {parent.mlflow_run_id}",
            flush=True,
        )
    return Swept(name, sweep.metric, rows, parent.mlflow_run_id)


def require_evaluation(job: Job) -> Job:
    """Return `job` with evaluation switched on: the scheduler decides on what evaluations report."""
    return override(job, {"train.eval_every": max(job.train.eval_every, 1)})


def count_evaluations(prepared: Prepared) -> int:
    """Return how many evaluations a whole training makes."""
    job, images = prepared.job, _count_images(prepared)
    return math.ceil(_count_steps(job, images) / (job.train.eval_every * _count_epoch_steps(job, images)))


def _count_images(prepared: Prepared) -> int:
    """Size of the training set; third-party shards behind a URL are scanned for it."""
    return prepared.train.images or len(prepared.job.data.open(prepared.job.data.train))


def _count_epoch_steps(job: Job, images: int) -> int:
    return steps_per_epoch(images, job.train.batch_size, job.data.tail)


def _count_steps(job: Job, images: int) -> int:
    return job.train.steps or job.train.epochs * _count_epoch_steps(job, images)


def _build_tuner(
    prepared: Prepared,
    sweep: Sweep,
    name: str,
    callbacks: Sequence["Callbacks"],
    *,
    parent: str | None,
    gpu: bool,
) -> Any:
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # Tune's own tables, whatever `verbose` says
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search import BasicVariantGenerator

    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # the table has a row for a failed trial
    job, last = prepared.job, count_evaluations(prepared)
    # One more than there are: a trial that reaches the end finishes by itself, with its final model.
    scheduler = ASHAScheduler(
        max_t=last + 1, grace_period=min(sweep.grace_epochs, last), reduction_factor=REDUCTION
    )
    trainable = tune.with_resources(
        tune.with_parameters(
            _run_trial,
            job=job,
            sweep=name,
            callbacks=callbacks,
            parent=parent,
            gpu=gpu,
            environment=worker_environment(job, gpu=gpu) | tracking_variables(),
        ),
        tune.PlacementGroupFactory([DRIVER]),
    )
    return tune.Tuner(
        trainable,
        param_space=tune_space(sweep.space),
        tune_config=tune.TuneConfig(
            metric=sweep.metric,
            mode="max",
            scheduler=scheduler,
            num_samples=sweep.trials,
            # With the seed a sweep draws the same settings again.
            search_alg=BasicVariantGenerator(max_concurrent=sweep.concurrent, random_state=job.train.seed),
        ),
        run_config=tune.RunConfig(
            name=name, storage_path=job.store.path, verbose=0, callbacks=[_progress_callback()]
        ),
    )


@mask_errors
def _run_trial(
    settings: dict[str, Any],
    *,
    job: Job,
    sweep: str,
    callbacks: Sequence["Callbacks"],
    parent: str | None,
    gpu: bool,
    environment: Mapping[str, str],
) -> None:
    """Train one trial as an ordinary run, a child of the sweep's MLflow run."""
    os.environ.update(environment)
    from ray import tune
    from ray.tune.integration.ray_train import TuneReportCallback

    trial = tune.get_context().get_trial_id()
    job = require_evaluation(override(job, settings))
    name = trial_name(sweep, trial)
    prepared = Prepared(job, name, trial_hash(parent, name))
    title, tags = trial_title(settings), {"qdet.trial": trial}
    with open_session(prepared, parent=parent, tags=tags, title=title) as session:
        output, reports = PlainLines(f"trial {trial_number(trial)}: "), [TuneReportCallback()]
        result = fit(job, session.run, callbacks, gpu=gpu, ray_callbacks=reports, output=output)
        session.describe_results(result["step"], result["metrics"])


def _make_row(result: Any, prepared: Prepared, sweep: Sweep) -> TrialRow:
    metrics, settings = result.metrics or {}, dict(result.config or {})
    step = metrics.get("step")
    if result.error is not None:
        state = "failed"
    else:
        state = "finished" if step == _planned_steps(prepared, settings) else "stopped early"
    return TrialRow(
        trial=trial_number(metrics.get("trial_id", Path(result.path).name)),
        settings=settings,
        metric=None if result.error else metrics.get(sweep.metric),
        step=step,
        state=state,
        error=str(find_cause(result.error)) if result.error else None,
    )


def _planned_steps(prepared: Prepared, settings: Mapping[str, Any]) -> int:
    tried = override(prepared.job, settings)
    if tried.data == prepared.job.data:
        return _count_steps(tried, _count_images(prepared))
    return _count_steps(tried, _count_images(Prepared(tried)))


def _progress_callback() -> Any:
    from ray.tune import Callback

    class Progress(Callback):
        """Print a line when a trial starts or fails; its workers say how it is going."""

        def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            print(f"trial {trial_number(trial.trial_id)} tries {as_flags(trial.config)}", flush=True)

        def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            print(f"trial {trial_number(trial.trial_id)} failed; the sweep continues", flush=True)

    return Progress()
