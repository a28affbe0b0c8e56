"""A sweep on a Ray cluster: Ray Tune draws settings, ASHA stops the weak early, a trial is an ordinary run.

ASHA: Li et al., A System for Massively Parallel Hyperparameter Tuning, MLSys 2020,
https://arxiv.org/abs/1810.05934.

A trial is a small driver that asks no CPU for itself and starts Ray Train workers of its own; what they
report after every evaluation reaches the scheduler through `TuneReportCallback`.
"""

import logging
import math
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from qdet.config import override
from qdet.data.plan.epoch import steps_per_epoch
from qdet.errors import TrainingError
from qdet.job import Job, Sweep
from qdet.launching.preflight import check as preflight
from qdet.launching.ray_backend import capacity, connect
from qdet.launching.ray_backend.failures import cause_of
from qdet.launching.ray_backend.interruptible import call_interruptibly
from qdet.launching.ray_backend.masked_errors import masks_errors
from qdet.launching.ray_backend.train import fit, tracking_variables, worker_environment
from qdet.launching.runs import record as runs
from qdet.launching.runs.prepared import Prepared, prepare
from qdet.launching.runs.session import open_session
from qdet.launching.runs.sweep import TrialRow, as_flags, open_sweep, table, trial_name
from qdet.search import Each, LogUniform, Space, Uniform

REDUCTION = 3
"""ASHA lets one in this many trials go on at every rung."""
# A trial's driver needs no CPU, which would be missing for its workers, but Tune refuses a trial of nothing.
DRIVER: dict[str, float] = {"memory": 2**20}


def search(job: Job, sweep: Sweep, *, address: str | None = None, wait: float = 60.0) -> None:
    """Try `sweep.trials` settings of `job` and print them, best first.

    Raises:
        QdetError: The sweep cannot run, or every trial failed.
    """
    prepared = prepare(evaluated_often(job))
    job = prepared.job
    sweep.check(job)
    preflight.check(prepared)
    connection = connect.connect(address)
    name = runs.new_name(replace(job, name=f"{job.name}_sweep"))
    try:
        gpu = capacity.wait_for(job.train, seconds=0.0 if connection.private else wait)
        with open_sweep(job, sweep, name) as parent:
            print(f"sweep {name}: {sweep.runs} trials of {', '.join(sweep.space)}", flush=True)
            tuner = _tuner(prepared, sweep, name, parent=parent.mlflow_run_id, gpu=gpu)
            rows = [_row(result, prepared, sweep) for result in call_interruptibly(tuner.fit)]
            connect.leave()
            parent.finish_trials(rows)
            parent.log(rows, sweep.metric)
            print(table(rows, sweep), flush=True)
    finally:
        connect.leave()
    best = max((row for row in rows if row.metric is not None), key=lambda row: row.metric or 0, default=None)
    if best is None:
        raise TrainingError(
            f"all {sweep.runs} trials failed; the first: {rows[0].error if rows else 'none ran'}"
        )
    print(f"best setting: {as_flags(best.settings)}", flush=True)


def evaluated_often(job: Job) -> Job:
    """Return `job` evaluated at least once in its course; every evaluation is reported to the scheduler."""
    return override(job, {"train.eval_every": max(job.train.eval_every, 1)})


def evaluations(prepared: Prepared) -> int:
    """Return how many evaluations a whole training makes."""
    job, images = prepared.job, _images(prepared)
    return math.ceil(_steps(job, images) / (job.train.eval_every * _epoch(job, images)))


def _images(prepared: Prepared) -> int:
    """Size of the training set; third-party shards behind a URL are scanned for it."""
    return prepared.train.images or len(prepared.job.data.open(prepared.job.data.train))


def _epoch(job: Job, images: int) -> int:
    return steps_per_epoch(images, job.train.batch_size, job.data.tail)


def _steps(job: Job, images: int) -> int:
    return job.train.steps or job.train.epochs * _epoch(job, images)


def tune_space(space: Mapping[str, Space]) -> dict[str, Any]:
    """Say a sweep's space in Ray Tune's words."""
    from ray import tune

    def domain(one: Space) -> Any:
        if isinstance(one, Uniform):
            return tune.uniform(one.low, one.high)
        if isinstance(one, LogUniform):
            return tune.loguniform(one.low, one.high)
        if isinstance(one, Each):
            return tune.grid_search(list(one.options))
        return tune.choice(list(one.options))

    return {path: domain(one) for path, one in space.items()}


def _tuner(prepared: Prepared, sweep: Sweep, name: str, *, parent: str | None, gpu: bool) -> Any:
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # Tune's own tables, whatever `verbose` says
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search import BasicVariantGenerator

    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # a failed trial is a row of the table
    job, last = prepared.job, evaluations(prepared)
    # One more than there are: a trial that comes to its end ends itself, with its final model.
    scheduler = ASHAScheduler(
        max_t=last + 1, grace_period=min(sweep.grace_epochs, last), reduction_factor=REDUCTION
    )
    trainable = tune.with_resources(
        tune.with_parameters(
            _trial,
            job=job,
            sweep=name,
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
            # Seeded, a sweep draws the same settings again.
            search_alg=BasicVariantGenerator(max_concurrent=sweep.concurrent, random_state=job.train.seed),
        ),
        run_config=tune.RunConfig(
            name=name, storage_path=job.store.path, verbose=0, callbacks=[_progress(sweep)]
        ),
    )


@masks_errors
def _trial(
    settings: dict[str, Any],
    *,
    job: Job,
    sweep: str,
    parent: str | None,
    gpu: bool,
    environment: Mapping[str, str],
) -> None:
    """What runs for every trial: one ordinary training, under the sweep's MLflow run."""
    os.environ.update(environment)
    from ray import tune
    from ray.tune.integration.ray_train import TuneReportCallback

    trial = tune.get_context().get_trial_id()
    tried = evaluated_often(override(job, settings))
    name = trial_name(sweep, trial)
    with open_session(Prepared(tried, name), parent=parent, tags={"qdet.trial": trial}) as session:
        fit(tried, session.run, gpu=gpu, callbacks=[TuneReportCallback()])


def _row(result: Any, prepared: Prepared, sweep: Sweep) -> TrialRow:
    metrics, settings = result.metrics or {}, dict(result.config or {})
    step = metrics.get("step")
    if result.error is not None:
        state = "failed"
    else:
        state = "finished" if step == _planned_steps(prepared, settings) else "stopped early"
    return TrialRow(
        trial=metrics.get("trial_id", Path(result.path).name),
        settings=settings,
        metric=None if result.error else metrics.get(sweep.metric),
        step=step,
        state=state,
        error=str(cause_of(result.error)) if result.error else None,
    )


def _planned_steps(prepared: Prepared, settings: Mapping[str, Any]) -> int:
    tried = override(prepared.job, settings)
    if tried.data == prepared.job.data:
        return _steps(tried, _images(prepared))
    return _steps(tried, _images(Prepared(tried)))


def _progress(sweep: Sweep) -> Any:
    from ray.tune import Callback

    class Progress(Callback):
        """One line when a trial starts, is evaluated and ends."""

        def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            print(f"trial {trial.trial_id} tries {as_flags(trial.config)}", flush=True)

        def on_trial_result(
            self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
        ) -> None:
            value = result.get(sweep.metric)
            if value is not None:
                print(
                    f"trial {trial.trial_id} step {result.get('step')}: {sweep.metric} {value:.4f}",
                    flush=True,
                )

        def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            print(f"trial {trial.trial_id} failed; the sweep goes on", flush=True)

    return Progress()
