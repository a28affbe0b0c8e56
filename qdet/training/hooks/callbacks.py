"""What a user can have called beside a training."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from qdet.training.reporting import Progress


@dataclass(frozen=True)
class Ended:
    """How a training ended."""

    how: Literal["finished", "stopped", "failed"]
    """`stopped` on request, after a checkpoint; `failed` in this process, which may be restarted."""
    step: int
    """Optimizer steps done; at a failure, those of the last report."""
    metrics: Mapping[str, float]
    """Those of the last evaluation, such as `val/AP`."""
    cause: str | None = None
    """What failed."""


class Callbacks:
    """What a user can have called; a subclass defines the methods it wants.

    Given to `launch(job, callbacks=[Mine()])` in a job file. A copy goes to the worker of rank 0, again after
    every restart, so that state is kept for as long as a worker lives and cannot be read by the driver.
    """

    def on_step(self, progress: Progress) -> None:
        """Called every `--train.log-every` steps."""

    def on_evaluation(self, step: int, metrics: Mapping[str, float]) -> None:
        """Called after an evaluation with its metrics, such as `val/AP`."""

    def on_checkpoint(self, step: int, folder: str) -> None:
        """Called when the checkpoint in `folder`, a path or URL, is complete."""

    def on_end(self, ended: Ended) -> None:
        """Called last."""
