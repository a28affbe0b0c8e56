"""A pause after an epoch: a run stops with a checkpoint; its schedules are those of the whole training."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Pause:
    """When a run pauses. A pure function of the step, so that ranks need not agree."""

    after: int | None
    """Epochs; None for never."""
    steps_per_epoch: int

    def due(self, step: int) -> bool:
        """Whether a run that has made `step` steps stops here, or should have stopped before."""
        return self.after is not None and step >= self.after * self.steps_per_epoch

    def explain(self) -> str:
        """Say why the run stops and what to give instead."""
        return f"--train.pause-after {self.after} is reached; give a later one, or leave it out, to train on"
