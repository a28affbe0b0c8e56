"""How a training run speaks to whoever launched it: progress, checkpoints and where to go on.

`train()` calls a `Reporter` and knows neither Ray nor a file layout; `LocalReporter` serves a single process
and torchrun, `qdet.launch.ray_train` has the one for Ray.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from qdet.training.checkpoint import is_complete


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
    """What `train()` needs of its surroundings; every rank has one, and calls all but `progress` together."""

    def progress(self, progress: Progress) -> None:
        """Show where training stands (rank 0 only)."""
        ...

    def latest_checkpoint(self) -> Path | None:
        """Return a local folder with the last complete checkpoint of this run, or None on every rank."""
        ...

    def checkpoint(self, folder: Path | None, *, step: int, metrics: Mapping[str, float]) -> None:
        """Take over the complete checkpoint that rank 0 wrote into the local `folder` (None on other ranks).

        The folder belongs to the reporter afterwards. `metrics` are those of the last evaluation, or empty.
        """
        ...


class LocalReporter:
    """Keeps checkpoints as `<store>/<run>/step_000300` and prints progress: one process, or torchrun."""

    def __init__(self, run: Run, *, keep: int) -> None:
        self.folder = Path(run.store) / run.name
        self.keep = keep

    def progress(self, progress: Progress) -> None:
        """Print one line."""
        print(progress.line(), flush=True)

    def latest_checkpoint(self) -> Path | None:
        """Return the newest undamaged checkpoint of the run."""
        return next((folder for folder in reversed(self._checkpoints()) if is_complete(folder)), None)

    def checkpoint(self, folder: Path | None, *, step: int, metrics: Mapping[str, float]) -> None:
        """Move the checkpoint to its place in one rename, then drop those that are too old."""
        if folder is None:
            return
        place = self.folder / f"step_{step:06d}"
        arriving = self.folder / f".arriving_{step:06d}"
        for leftover in (arriving, place):
            shutil.rmtree(leftover, ignore_errors=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        shutil.move(folder, arriving)
        arriving.rename(place)
        for old in self._checkpoints()[: -self.keep - 1]:
            shutil.rmtree(old)

    def _checkpoints(self) -> list[Path]:
        return sorted(self.folder.glob("step_*"))
