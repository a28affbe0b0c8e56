"""Ray Tune as the executor of a sweep: it asks a `Conduct` which trial comes next and which stops.

Ray Tune's own state is not used: it is pickle, and it leaves schedulers out. Every start of a sweep has a new
`Tuner` for the trials that are left.
"""

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qdet.launching.ray_backend import capacity
from qdet.launching.ray_backend.sweeping.conduct import Conduct
from qdet.launching.ray_backend.sweeping.trial import run_trial

if TYPE_CHECKING:
    from ray.tune import Callback
    from ray.tune.schedulers import TrialScheduler
    from ray.tune.search import Searcher

RETRIES = 3
"""How often the driver of a trial is started again after its death."""


def build_tuner(conduct: Conduct, folder: Path) -> Any:
    """Return a `Tuner` for the trials that are left; Ray Tune keeps files of its own in `folder`."""
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # Tune's own tables, whatever `verbose` says
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    from ray import tune

    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # the table has a row for a failed trial
    conduct.left = [] if conduct.rounds is not None else conduct.course.waiting
    driver = {"memory": capacity.share_of_driver(capacity.list_nodes())}
    trainable = tune.with_resources(
        tune.with_parameters(run_trial, plan=conduct.plan), tune.PlacementGroupFactory([driver])
    )
    return tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            scheduler=_scheduler(conduct),
            search_alg=_searcher(conduct),
            num_samples=-1,
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(folder),
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=RETRIES),
            callbacks=[_callback(conduct)],
        ),
    )


def _searcher(conduct: Conduct) -> "Searcher":
    from ray.tune.search import Searcher

    class Numbers(Searcher):
        """Suggests the numbers of the trials that are left."""

        def suggest(self, trial_id: str) -> Any:
            try:
                return conduct.suggest()
            except StopIteration:
                return Searcher.FINISHED

        def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
            """Do nothing: the course knows."""

        def save(self, checkpoint_path: str) -> None:
            """Save nothing: the course is in the store."""

        def restore(self, checkpoint_path: str) -> None:
            """Restore nothing."""

    return Numbers()


def _scheduler(conduct: Conduct) -> "TrialScheduler":
    from ray.tune.schedulers import FIFOScheduler

    class Decisions(FIFOScheduler):
        """Stops what the course stops."""

        def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
            stop = conduct.report(trial.config["trial"], result)
            return self.STOP if stop else self.CONTINUE

    return Decisions()


def _callback(conduct: Conduct) -> "Callback":
    from ray.tune import Callback

    class Progress(Callback):
        """Says when the driver of a trial has died."""

        def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            number = trial.config["trial"]
            label = conduct.course.start(number).label
            print(f"trial {label}: its driver was lost; it resumes from its last checkpoint", flush=True)

        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            conduct.completed(trial.config["trial"])

        def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            conduct.lost(trial.config["trial"], f"its driver was lost {RETRIES + 1} times")

    return Progress()
