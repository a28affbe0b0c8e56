"""Weights & Biases, with the extra `wandb`; WANDB_MODE, WANDB_API_KEY and its other variables hold."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, SupportsFloat

from qdet.masking import mask
from qdet.tracking import values as strings
from qdet.tracking.tracker import NullTracker, Picture, Status

if TYPE_CHECKING:
    from wandb.sdk.wandb_run import Run

STEP = "step"
"""The x axis of all charts. W&B's own step cannot go back, as a run resumed from a checkpoint does."""


class WandbTracker(NullTracker):
    """Logs to one W&B run, which a resumed run continues; see `Tracker`.

    Args:
        project: W&B project, the MLflow experiment's name.
        name: Name of the run; its W&B id is made of it.
        folder: Local folder for W&B's files.
    """

    name = "wandb"

    def __init__(self, project: str, name: str, folder: Path) -> None:
        self._project, self._name, self._folder = project, name, folder
        self._run: Run | None = None

    def params(self, values: Mapping[str, Any]) -> None:
        """Log the flat settings of the run."""
        self._open().config.update(strings.params(values), allow_val_change=True)

    def metrics(self, values: Mapping[str, SupportsFloat], step: int) -> None:
        """Log numbers at an optimizer step."""
        self._open().log({name: float(value) for name, value in values.items()} | {STEP: step})

    def tags(self, values: Mapping[str, Any]) -> None:
        """Set tags, as parts of the run's summary: W&B's own have no values."""
        self._open().summary.update(strings.tags(values))

    def picture(self, image: Picture, name: str, step: int) -> None:
        """Log an RGB picture."""
        import wandb

        shown = str(image) if isinstance(image, Path) else image
        self._open().log({name: wandb.Image(shown), STEP: step})

    def table(self, columns: Mapping[str, Sequence[Any]], file: str) -> None:
        """Log a table by columns."""
        import wandb

        rows: list[Any] = [list(row) for row in zip(*columns.values(), strict=True)]
        self._open().log({Path(file).stem: wandb.Table(columns=list(columns), data=rows)})

    def text(self, text: str, file: str) -> None:
        """Keep text as a file of the run."""
        to = Path(self._open().dir) / file
        to.parent.mkdir(parents=True, exist_ok=True)
        to.write_text(mask(text))
        self._open().save(str(to), base_path=self._open().dir, policy="now")

    def close(self, status: Status | None = None, *, wait: float | int = 15) -> bool:
        """Send the rest."""
        if self._run is not None:
            self._run.finish(exit_code=0 if status in (None, "FINISHED") else 1)
            self._run = None
        return True

    def _open(self) -> "Run":
        if self._run is None:
            import wandb

            self._folder.mkdir(parents=True, exist_ok=True)
            self._run = wandb.init(
                project=self._project,
                name=self._name,
                id=re.sub(r"[^\w-]", "-", self._name)[:128],
                resume="allow",
                dir=self._folder,
                settings=wandb.Settings(console="off", quiet=True),
            )
            self._run.define_metric("*", step_metric=STEP)
        return self._run
