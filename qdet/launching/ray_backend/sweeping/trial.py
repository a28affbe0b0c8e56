"""The driver of one trial of a sweep: a small process of Ray Tune's that starts Ray Train workers of its own.

It reserves no CPU. What the workers report after each evaluation is passed to the sweep, and last of all how
the trial ended. Only the death of this process, or of Ray Train's controller, is an error to Ray Tune, which
then starts the trial again: it resumes from its last checkpoint.
"""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from qdet.config import override
from qdet.errors import ClusterError
from qdet.job import Job, Sweep
from qdet.launching.ray_backend.failures import find_cause
from qdet.launching.ray_backend.masked_errors import mask_errors
from qdet.launching.ray_backend.train import fit
from qdet.launching.runs.prepared import Prepared
from qdet.launching.runs.session import open_session
from qdet.launching.runs.sweeps.adoption import saved_metrics
from qdet.launching.runs.sweeps.record import SweepFile, SweepStore, Trial
from qdet.launching.runs.sweeps.session import trial_hash, trial_name
from qdet.launching.runs.sweeps.settings import decode
from qdet.launching.runs.sweeps.table import trial_title
from qdet.masking import mask
from qdet.tracking.run_tags import SOURCE, program_name
from qdet.training.reporting import PlainLines

if TYPE_CHECKING:
    from qdet.training.hooks.callbacks import Callbacks

ENDED = "qdet_ended"
"""Key of a trial's last report: the state in which it ended."""
ERROR = "qdet_error"
"""Key of why it failed."""
TAKEN = 300.0
"""Seconds in which Ray Tune must take a trial's last report, and stop its driver."""


@dataclass(frozen=True, kw_only=True)
class TrialPlan:
    """What the drivers of all trials need."""

    job: Job
    """With absolute paths."""
    sweep: Sweep
    file: SweepFile
    callbacks: Sequence["Callbacks"]
    environment: Mapping[str, str]
    program: str
    """What MLflow shows as the source of each run: Ray's own program runs its driver."""

    def job_of(self, settings: Mapping[str, Any], pause: int | None = None) -> Job:
        """Return the job of a trial; ConfigError where its settings do not go together.

        Args:
            settings: That it tries.
            pause: Epochs after which it pauses.
        """
        return override(self.job, {**settings, **({"train.pause_after": pause} if pause else {})})


@mask_errors
def run_trial(config: dict[str, Any], *, plan: TrialPlan) -> None:
    """Train trial `config["trial"]` as an ordinary run, a child of the sweep's MLflow run."""
    os.environ.update(plan.environment)
    from ray.exceptions import RayError
    from ray.tune.integration.ray_train import TuneReportCallback

    reports = TuneReportCallback()
    try:
        ended = _train(plan, config["trial"], gpu=config["gpu"], pause=config.get("pause"), reports=reports)
    except RayError:
        raise
    except Exception as error:
        ended = {ENDED: "failed", ERROR: mask(str(find_cause(error)))}
    _report_last(reports, ended)


def _report_last(reports: Any, ended: dict[str, Any]) -> None:
    """Send the last report on the way of the workers' reports, so that it comes after them.

    Ray Tune stops this driver once it has that report. Until then this must not return: Ray Tune would note
    the return in the only place that it has for a report, and wait for ever to put the report there.

    Raises:
        ClusterError: Ray Tune does not stop it. It then starts this driver again, which finds the trial as it
            ended and reports that.
    """
    reports._training_actor_item_queue.put(ended)
    until = time.monotonic() + TAKEN
    while time.monotonic() < until:
        time.sleep(0.2)
    raise ClusterError(f"Ray Tune took no last report of a trial within {TAKEN:.0f} s")


def _train(plan: TrialPlan, number: int, *, gpu: bool, pause: int | None, reports: Any) -> dict[str, Any]:
    trial = SweepStore.at(plan.job.store.path, plan.file.name).read(number)
    label, settings = trial.label, decode(plan.sweep.space, trial.settings)
    job, name = plan.job_of(settings, pause), trial_name(plan.file.name, label)
    prepared = Prepared(job, name, trial_hash(plan.file, name))
    title, tags = trial_title(label, settings), _tags(plan, trial)
    with open_session(prepared, parent=plan.file.mlflow_run_id, tags=tags, title=title) as session:
        output = PlainLines(f"trial {label}: ")
        try:
            result = fit(job, session.run, plan.callbacks, gpu=gpu, ray_callbacks=[reports], output=output)
        except Exception:
            session.tracker.tags({"qdet.trial_state": "failed"})
            raise
        session.describe_results(result["step"], result["metrics"])
        session.tracker.tags({"qdet.trial_state": _state(result)})
    metrics = result["metrics"] or saved_metrics(job.store.path, name, result["step"])
    return {ENDED: _state(result), "step": result["step"], **metrics}


def _tags(plan: TrialPlan, trial: Trial) -> dict[str, str]:
    """Return the tags of a trial's MLflow run; in a population, which trials it has continued from."""
    tags = {"qdet.trial": trial.label, "qdet.sweep_name": plan.file.name, SOURCE: plan.program}
    copied = [f"t{turn.parent:02d} after step {turn.step}" for turn in trial.turns if turn.parent is not None]
    return tags | ({"qdet.continued_from": ", ".join(copied)} if copied else {})


def _state(result: Mapping[str, Any]) -> str:
    if result["step"] == result["steps"]:
        return "finished"
    return "paused" if result["paused"] else "stopped early"


def plan_of(job: Job, **given: Any) -> TrialPlan:
    """Return the plan of a job, whose trials are named after the sweep and never after the job's own run."""
    job = replace(job, store=replace(job.store, run=None, resume=None))
    return TrialPlan(job=job, program=program_name(), **given)
