"""Early stopping: training ends when the validation AP has stopped rising."""

import math
from collections.abc import Mapping
from typing import Any

from qdet.checkpoint import TrainState
from qdet.checkpoint.run_folder import METRIC
from qdet.training.observer import Observer


class EarlyStopping(Observer):
    """Counts evaluations without a better AP. All ranks see the same metrics, so they need no exchange.

    Args:
        patience: Evaluations in a row without a better AP that end training; 0 never does.
    """

    def __init__(self, patience: int) -> None:
        self.patience = patience
        self.best: float | None = None
        """The best AP so far."""
        self.best_step = 0
        self.stale = 0
        """Evaluations since then."""

    @property
    def due(self) -> bool:
        """Whether training ends now."""
        return 0 < self.patience <= self.stale

    def observe(self, step: int, metrics: Mapping[str, float]) -> None:
        """Take the metrics of an evaluation after `step` steps; an AP that is not finite is no better."""
        ap = metrics.get(METRIC, math.nan)
        if math.isfinite(ap) and (self.best is None or ap > self.best):
            self.best, self.best_step, self.stale = float(ap), step, 0
        else:
            self.stale += 1

    def explain(self) -> str:
        """Say why training ends."""
        best = "none was finite" if self.best is None else f"best: {self.best:.4f} at step {self.best_step}"
        return f"stopped early: no better {METRIC} in {self.stale} evaluations ({best})"

    def state(self) -> Mapping[str, Any]:
        """Return what a resumed run counts on from."""
        return {"best_ap": self.best, "best_step": self.best_step, "stale_evaluations": self.stale}

    def restore(self, saved: TrainState) -> None:
        """Count on from a checkpoint."""
        self.best, self.best_step, self.stale = saved.best_ap, saved.best_step, saved.stale_evaluations
