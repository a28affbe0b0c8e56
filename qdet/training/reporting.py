"""What passes between a training run and its launcher: identity, progress, metrics, requests to stop.

`train()` calls a `Reporter` and does not know Ray. `LocalReporter` is for a single process and torchrun;
`qdet.launching.ray_backend.reporter` has the one for Ray.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@dataclass(frozen=True)
class Run:
    """The name of a training run and where it stores things."""

    name: str
    """Unique name of the run, and of its folder in the store."""
    store: str
    """Absolute path or URL of the folder that contains the folders of all runs."""
    mlflow_run_id: str | None = None
    """The MLflow run to log into; None logs nothing."""
    launched: float | None = None
    """Unix time at which this launch of the run began, before any restart; None: when training starts."""


@dataclass(frozen=True)
class Progress:
    """How far training is; reported every few steps on rank 0."""

    step: int
    steps: int
    epoch: float
    loss: float
    lr: float
    grad_norm: float
    images_per_second: float
    data_wait: float
    """Share of the time since the last report spent waiting for data, in [0, 1]."""
    eta_seconds: float

    def line(self) -> str:
        """Return it as one line."""
        minutes, seconds = divmod(round(self.eta_seconds), 60)
        return (
            f"step {self.step}/{self.steps}  loss {self.loss:.3f}  {self.images_per_second:.1f} images/s  "
            f"waiting for data {self.data_wait:.0%}  ETA {minutes}:{seconds:02d}"
        )


@runtime_checkable
class Reporter(Protocol):
    """How `train()` talks to its launcher."""

    def progress(self, progress: Progress) -> None:
        """Show how far training is (rank 0 only)."""
        ...

    def evaluated(self, step: int, metrics: Mapping[str, float]) -> None:
        """Take the metrics of an evaluation after `step` steps (every rank, the same metrics)."""
        ...

    def saved(self, step: int, folder: str) -> None:
        """Take note that the checkpoint in `folder` is complete (rank 0 only, on the writing thread)."""
        ...

    def stop_requested(self) -> bool:
        """Whether this worker was asked to stop. Does not wait; called in every step."""
        ...

    def preempted(self) -> bool:
        """Whether a machine of the run was newly announced to be taken away (collective)."""
        ...


class LocalReporter:
    """Prints progress: for one process, and torchrun.

    Args:
        stop_requested: Whether this process was asked to stop.
    """

    def __init__(self, stop_requested: Callable[[], bool] = lambda: False) -> None:
        self._stop_requested = stop_requested

    def progress(self, progress: Progress) -> None:
        """Print one line."""
        print(progress.line(), flush=True)

    def evaluated(self, step: int, metrics: Mapping[str, float]) -> None:
        """Do nothing: no scheduler is waiting."""

    def saved(self, step: int, folder: str) -> None:
        """Do nothing."""

    def stop_requested(self) -> bool:
        """Whether this process was asked to stop."""
        return self._stop_requested()

    def preempted(self) -> bool:
        """Return False: without Ray, only a signal announces it."""
        return False
