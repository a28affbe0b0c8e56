"""`qdet visualize`."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import OmitArgPrefixes, Positional, arg

from qdet.errors import ConfigError
from qdet.inference import SCORE
from qdet.launching.commands.models.model_flags import ModelFlags
from qdet.launching.commands.overwriting import check_free


@dataclass(frozen=True, kw_only=True)
class VisualizeCommand:
    """Draw what a model looks at in images, or with --job the batches that a job trains on."""

    named: Annotated[
        Positional[tuple[str, ...]],
        arg(
            metavar="MODEL IMAGE ...",
            help_behavior_hint="",
            help="A model, as for predict; then images, patterns, folders, shards.",
        ),
    ] = ()
    what: Literal["points", "gaussians", "regions", "attention", "stages"] | None = None
    """Sampling points, SMCA's Gaussians, regions, attention maps, or how boxes move from stage to stage; by
    default the first of these that the model has."""
    score: float = SCORE
    """Least score of the detections whose queries are drawn."""
    queries: int = 3
    """Queries drawn of each image, the best first."""
    to: Annotated[Path, arg(metavar="DIR")] = Path("looks")
    """Folder for the pictures."""
    force: bool = False
    """Overwrite what is there already."""
    panel: int = 320
    """Longer side in pixels of each image in a picture."""
    size: int | None = None
    """Short side in pixels that images are resized to; by default that of the model's evaluation."""
    max_pixels: int = 100_000_000
    """Pixels of the largest image that is decoded."""
    load: OmitArgPrefixes[ModelFlags] = field(default_factory=ModelFlags)
    job: Annotated[Path | None, arg(metavar="FILE")] = None
    """Draw the training batches of this job file instead; what follows `--` are flags of the job."""
    step: int = 0
    """First step to draw, with --job."""
    count: int = 16
    """Images to draw, with --job."""

    def run(self, job_flags: Sequence[str]) -> int:
        """Draw; return 1 if some image could not be read."""
        self._check(job_flags)
        check_free(self.to, force=self.force)
        if self.job is not None:
            from qdet.launching.commands.models.batch_sheets import draw_batches

            draw_batches(
                self.job, job_flags, step=self.step, count=self.count, size=self.panel, folder=self.to
            )
            return 0
        return self._look()

    def _look(self) -> int:
        from qdet.launching.commands.models.visualization import Visualization

        model, *images = self.named
        visualization = Visualization(
            self.load.open(model),
            what=self.what,
            score=self.score,
            queries=self.queries,
            folder=self.to,
            panel=self.panel,
            size=self.size,
        )
        failures = visualization.run(images, max_pixels=self.max_pixels)
        for failure in failures:
            print(f"not drawn: {failure.reason}", file=sys.stderr)
        return 1 if failures else 0

    def _check(self, job_flags: Sequence[str]) -> None:
        """Raise ConfigError for what cannot be drawn."""
        if self.job is not None and self.named:
            raise ConfigError(f"--job draws training batches, {self.named[0]} a model: give one of them")
        if self.job is None and len(self.named) < 2:
            raise ConfigError("name a model and images to look at, or a job file with --job")
        if self.job is None and job_flags:
            raise ConfigError(f"{job_flags[0]} behind -- is a flag of a job: give the job's file with --job")
        if not 0 <= self.score <= 1:
            raise ConfigError(f"--score must be between 0 and 1, got {self.score}")
        for name, least in (("queries", 1), ("count", 1), ("panel", 32), ("step", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"--{name} must be at least {least}, got {getattr(self, name)}")
