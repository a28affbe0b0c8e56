"""`qdet predict`."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from tyro.conf import OmitArgPrefixes, Positional, arg

from qdet.errors import ConfigError
from qdet.launching.commands.models.model_flags import ModelFlags, ModelSource
from qdet.launching.commands.overwriting import check_free


@dataclass(frozen=True, kw_only=True)
class PredictCommand:
    """Detect objects in images, videos and datasets; print what is found, draw it, write it as JSON."""

    model: ModelSource
    sources: Annotated[Positional[tuple[str, ...]], arg(metavar="SOURCE ...", help_behavior_hint="")] = ()
    """Files, patterns such as 'photos/**/*.jpg', folders, URLs, videos, or shards."""
    score: float | None = None
    """Least score; by default 0.3 for what is printed and drawn, and none for --json."""
    to: Annotated[Path | None, arg(metavar="DIR")] = None
    """Folder for the images and videos with what was found drawn on them."""
    json: Annotated[Path | None, arg(metavar="FILE")] = None
    """Write all detections to this file as COCO results."""
    force: bool = False
    """Overwrite what is there already."""
    show_classes: bool = False
    """Print the model's classes, with their ids in COCO results."""
    size: int | None = None
    """Short side in pixels that images are resized to; by default that of the model's evaluation."""
    tile: int | None = None
    """Cut large images into overlapping tiles of that side in pixels, for small objects."""
    batch: int | None = None
    """Images per forward pass."""
    max_pixels: int = 100_000_000
    """Pixels of the largest image that is decoded."""
    load: OmitArgPrefixes[ModelFlags] = field(default_factory=ModelFlags)

    def run(self, _: Sequence[str]) -> int:
        """Predict; return 1 if some image could not be read."""
        from qdet.launching.commands.models.prediction import Prediction, list_classes

        if not self.sources and not self.show_classes:
            raise ConfigError("nothing to predict in: name files, folders, URLs, videos or shards")
        for flag, path in (("--to", self.to), ("--json", self.json)):
            if path is not None:
                check_free(path, flag=flag, force=self.force)
        model = self.load.open(self.model)
        if self.show_classes:
            print(list_classes(model))
        if not self.sources:
            return 0
        prediction = Prediction(
            model,
            score=self.score,
            drawings=self.to,
            results=self.json,
            size=self.size,
            tile=self.tile,
            batch=self.batch,
            max_pixels=self.max_pixels,
        )
        failures = prediction.run(self.sources)
        for failure in failures:
            print(f"not predicted: {failure.reason}", file=sys.stderr)
        return 1 if failures else 0
