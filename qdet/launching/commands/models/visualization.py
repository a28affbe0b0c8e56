"""What a model looks at in everything that was named: a picture per image."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from qdet.errors import DataError
from qdet.inference.batches import Preparation, detect_in, resize_to
from qdet.inference.detections import Unreadable
from qdet.inference.model import Model
from qdet.inference.pictures import Picture
from qdet.inference.runner import DetectorRunner, Images, SizesHW
from qdet.inference.sources import Still, find_sources
from qdet.launching.commands.models.picture_files import PictureFolder, picture_folder
from qdet.types import BatchDetections, Predictions
from qdet.visualize.drawing.looks import Style, draw_look
from qdet.visualize.looking.look import Look, What, choose, look


@dataclass
class Visualization:
    """One run of `qdet visualize` over images."""

    model: Model
    what: What | None
    score: float
    queries: int
    folder: Path
    panel: int
    size: int | None = None

    def run(self, named: Sequence[str], *, max_pixels: int) -> list[Unreadable]:
        """Draw every image that is named; return what could not be read.

        Raises:
            DataError: Nothing is behind a name.
            ConfigError: The model does not have what was asked for, or a file cannot be written.
        """
        self.what = choose(self.model.detector, self.what)
        sources = find_sources(named, max_pixels=max_pixels)
        failures = [Unreadable(v, f"{v} is a video; give single images of it") for v in sources.videos]
        with picture_folder(self.folder) as folder:
            for still in sources.stills:
                try:
                    self._draw(still, folder)
                except DataError as error:
                    failures.append(Unreadable(still.name, str(error)))
        return failures

    def _draw(self, still: Still, folder: PictureFolder) -> None:
        picture = still.open()
        seen = self._look_at(picture)
        best = seen.boxes.best(self.queries, score=self.score)
        if not best:
            highest = seen.boxes.scores[-1].max()
            print(f"{still.name}: nothing of --score {self.score:g} or more; the best has {highest:.2f}")
            return
        names = self.model.classes.names
        drawing = draw_look(picture.decode(), seen, best, Style(names, self.panel))
        file = folder.save(drawing, f"{Path(still.file_name).stem}.png")
        scores, labels = seen.boxes.scores[-1], seen.boxes.labels[-1]
        said = ", ".join(f"{names[labels[query]]} {scores[query]:.2f}" for query in best)
        print(f"{file}: {seen.what} of {said}", flush=True)

    def _look_at(self, picture: Picture) -> Look:
        """Record the pass of a picture that is prepared as in an evaluation."""
        inner = cast("DetectorRunner", self.model.runner)  # or `Model.detector` has raised
        runner = _LookingRunner(inner, self.what)
        augment = resize_to(self.model.description.augment, self.size)
        preparation = Preparation(augment, batch_size=1)
        for _, found in detect_in([picture], runner, self.model.classes, preparation):
            if isinstance(found, Unreadable):
                raise DataError(found.reason)
        return runner.looks[0]


class _LookingRunner:
    """A runner that records the last batch."""

    def __init__(self, inner: DetectorRunner, what: What | None) -> None:
        self._inner = inner
        self._what: What | None = what
        self.looks: list[Look] = []

    @property
    def device(self) -> torch.device:
        return self._inner.device

    def __call__(self, images: Images, sizes_hw: SizesHW, original_hw: SizesHW) -> BatchDetections:
        last: list[Predictions] = []

        def forward(images: Tensor, sizes_hw: Tensor) -> tuple[Predictions, ...]:
            predictions = self._inner.forward(images, sizes_hw)
            last.append(predictions[-1])
            return predictions

        detector = self._inner.detector
        self.looks = look(detector, images, sizes_hw, original_hw, what=self._what, forward=forward)
        return detector.detect(last[0], sizes_hw, original_hw)
