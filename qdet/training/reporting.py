"""How a training run speaks to whoever launched it: progress, checkpoints and where to go on.

`train()` calls a `Reporter` and knows neither Ray nor a file layout; `LocalReporter` serves a single process
and torchrun, `qdet.launch.ray_train` has the one for Ray.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class Run:
    """Who a training run is and where it keeps things."""

    name: str
    """Unique name of the run, and of its folder in the store."""
    store: str
    """Absolute folder or URL that holds the folders of all runs."""
    mlflow_run_id: str | None = None
    """The MLflow run to log into; None logs nothing."""


@dataclass(frozen=True)
class Progress:
    """Where training stands, given every few steps on rank 0."""

    step: int
    steps: int
    epoch: float
    loss: float
    lr: float
    grad_norm: float
    images_per_second: float
    data_wait: float
    """Share of the time since the last progress that was spent waiting for data, in [0, 1]."""
    eta_seconds: float


class Reporter(Protocol):
    """What `train()` needs of its surroundings. Every rank has one; all methods but `progress` are collective."""

    def progress(self, progress: Progress) -> None:
        """Show where training stands (rank 0 only)."""
        ...

    def latest_checkpoint(self) -> Path | None:
        """Return a local folder with the last complete checkpoint of this run, or None; same on every rank."""
        ...

    def checkpoint(self, folder: Path | None, *, step: int, metrics: Mapping[str, float]) -> None:
        """Take over the complete checkpoint that rank 0 wrote into the local `folder` (None on other ranks).

        The folder belongs to the reporter afterwards. `metrics` are those of the last evaluation, or empty.
        """
        ...
