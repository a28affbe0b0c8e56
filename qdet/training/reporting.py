"""How a training run speaks to whoever launched it: who it is, how far, and how good it is so far.

`train()` calls a `Reporter` and does not know Ray; `LocalReporter` serves a single process and torchrun,
`qdet.launching.ray_backend.reporter` has the one for Ray.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable


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

    def line(self) -> str:
        """Say it in one line."""
        minutes, seconds = divmod(round(self.eta_seconds), 60)
        return (
            f"step {self.step}/{self.steps}  loss {self.loss:.3f}  {self.images_per_second:.1f} images/s  "
            f"waiting for data {self.data_wait:.0%}  ETA {minutes}:{seconds:02d}"
        )


@runtime_checkable
class Reporter(Protocol):
    """What tells the surroundings of `train()` how it goes."""

    def progress(self, progress: Progress) -> None:
        """Show where training stands (rank 0 only)."""
        ...

    def evaluated(self, step: int, metrics: Mapping[str, float]) -> None:
        """Take the metrics of an evaluation after `step` steps (every rank, with the same)."""
        ...

    def leaving(self) -> bool:
        """Whether this worker was asked to leave. Does not wait; called at every step."""
        ...

    def preempted(self) -> bool:
        """Whether a machine of the run is newly known to be taken away soon (collective)."""
        ...


class LocalReporter:
    """Prints progress: one process, or torchrun.

    Args:
        asked: Whether this process was asked to leave.
    """

    def __init__(self, asked: Callable[[], bool] = lambda: False) -> None:
        self._asked = asked

    def progress(self, progress: Progress) -> None:
        """Print one line."""
        print(progress.line(), flush=True)

    def evaluated(self, step: int, metrics: Mapping[str, float]) -> None:
        """Nobody here decides by them."""

    def leaving(self) -> bool:
        """Whether this process was asked to leave."""
        return self._asked()

    def preempted(self) -> bool:
        """Nobody here says so other than by a signal."""
        return False
