"""Predicting in everything that was named: lines, drawings and COCO results as soon as there are some."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from jaxtyping import UInt8
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from qdet.console import open_console, print_line
from qdet.errors import ConfigError, DataError
from qdet.inference import SCORE
from qdet.inference.detections import Detections, Unreadable
from qdet.inference.model import Model
from qdet.inference.pictures import Picture
from qdet.inference.sources import Still, find_sources
from qdet.inference.video import VideoReader, VideoWriter
from qdet.launching.commands.models.picture_files import PictureFolder, picture_folder
from qdet.storage.atomic import atomic_file

TOGETHER = 20_000
"""Images, at most, among which batches of like size are formed."""
DRAWN = (".jpg", ".jpeg", ".png", ".webp")
"""Endings that drawings keep; others become .png."""


@dataclass
class Prediction:
    """One run of `qdet predict`."""

    model: Model
    score: float | None
    drawings: Path | None
    results: Path | None
    size: int | None = None
    tile: int | None = None
    batch: int | None = None
    max_pixels: int = 100_000_000
    _failures: list[Unreadable] = field(default_factory=list)
    _folder: PictureFolder | None = None

    def run(self, named: Sequence[str]) -> list[Unreadable]:
        """Predict in all images and videos; return what could not be read.

        Raises:
            DataError: Nothing is behind a name.
            ConfigError: A setting cannot work, or a file cannot be written.
        """
        sources = find_sources(named, max_pixels=self.max_pixels)
        console = open_console()
        with ExitStack() as stack:
            out = stack.enter_context(CocoResults(self.results)) if self.results else None
            if self.drawings is not None:
                self._folder = stack.enter_context(picture_folder(self.drawings))
            bar = stack.enter_context(_progress())
            stills = bar.add_task("images", total=len(sources.stills), visible=bool(sources.stills))
            for still, found in self._detect(sources.stills):
                self._take(still, found, out, console)
                bar.advance(stills)
            for video in sources.videos:
                self._predict_video(video, out, console, bar)
        return self._failures

    def _detect(self, stills: Sequence[Still]) -> Iterator[tuple[Still, Detections | Unreadable]]:
        for start in range(0, len(stills), TOGETHER):
            opened: list[tuple[Still, Picture]] = []
            for still in stills[start : start + TOGETHER]:
                try:
                    opened.append((still, still.open()))
                except DataError as error:
                    yield still, Unreadable(still.name, str(error))
            pictures = [picture for _, picture in opened]
            for number, found in self.model.detect(pictures, **self._options):
                yield opened[number][0], found

    @property
    def _options(self) -> dict[str, Any]:
        return {"score": self.score or 0.0, "batch": self.batch, "size": self.size, "tile": self.tile}

    @property
    def _shown(self) -> float:
        return SCORE if self.score is None else self.score

    def _take(
        self, still: Still, found: Detections | Unreadable, out: "CocoResults | None", console: Console
    ) -> None:
        if isinstance(found, Detections) and self._folder is not None:
            found = self._draw(still, found, self._folder)
        if isinstance(found, Unreadable):
            self._failures.append(found)
            return
        print_line(console, describe(found, self._shown))
        if out is not None:
            out.add(found, still.image_id)

    def _draw(self, still: Still, found: Detections, folder: PictureFolder) -> Detections | Unreadable:
        try:
            drawing = np.asarray(found.draw(score=self._shown))
        except DataError as error:  # read again for drawing, and gone by then
            return Unreadable(found.source, str(error))
        ending = Path(still.file_name).suffix.lower()
        folder.save(drawing, still.file_name if ending in DRAWN else f"{still.file_name}.png")
        return found

    def _predict_video(self, name: str, out: "CocoResults | None", console: Console, bar: Progress) -> None:
        try:
            with ExitStack() as stack:
                reader = stack.enter_context(VideoReader(name, max_pixels=self.max_pixels))
                task = bar.add_task(Path(name).name, total=reader.info.frames or None)
                writer = None
                if self._folder is not None:
                    file = self._folder.file(f"{Path(name.partition('?')[0]).stem}.mp4")
                    writer = stack.enter_context(VideoWriter(file, reader.info.rate))
                for number, found in enumerate(self._detect_frames(iter(reader))):
                    if writer is not None:
                        writer.write(np.asarray(found.draw(score=self._shown)))
                    if out is not None:
                        out.add(found, f"{Path(name).name}#{number}")
                    said = describe(found, self._shown)
                    print_line(console, f"{name} frame {number}: {said.rpartition(': ')[2]}")
                    bar.advance(task)
        except DataError as error:
            self._failures.append(Unreadable(name, str(error)))

    def _detect_frames(self, frames: Iterator[UInt8[np.ndarray, "_ _ 3"]]) -> Iterator[Detections]:
        """Detect batch by batch; an error of the video comes after the frames before it."""
        size = self.batch or self.model.description.eval.batch_size
        failure: DataError | None = None
        while failure is None:
            batch: list[UInt8[np.ndarray, "_ _ 3"]] = []
            try:
                batch.extend(islice(frames, size))  # what came before an error is kept
            except DataError as error:
                failure = error
            if batch:
                yield from self.model.predict(batch, **self._options)
            elif failure is None:
                return
        raise failure


class CocoResults:
    """A file of COCO results, written as they come; a context manager that keeps them when interrupted."""

    def __init__(self, file: Path) -> None:
        self.file, self._stack = file, ExitStack()
        self._empty = True

    def __enter__(self) -> "CocoResults":
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            self._out: BinaryIO = self._stack.enter_context(atomic_file(self.file))
        except OSError as error:
            raise ConfigError(f"--json {self.file} cannot be written: {error.strerror or error}") from error
        self._out.write(b"[")
        return self

    def __exit__(self, *_: object) -> None:
        self._out.write(b"\n]\n")
        self._stack.close()  # also after an error: what was found until then is kept

    def add(self, found: Detections, image_id: int | str) -> None:
        """Append the detections of an image."""
        for one in found.to_coco(image_id):
            self._out.write(b"\n" if self._empty else b",\n")
            self._out.write(json.dumps(one, ensure_ascii=False).encode())
            self._empty = False


def describe(found: Detections, score: float) -> str:
    """Say what was found in an image, in one line.

    >>> describe(found, 0.3)
    'street.jpg: 3 person, 1 dog'
    """
    counts = Counter(found.above(score).names)
    said = ", ".join(f"{times} {name}" for name, times in counts.most_common()) or "nothing"
    note = f" ({found.picture.note})" if found.picture.note else ""
    return f"{found.source}: {said}{note}"


def list_classes(model: Model) -> str:
    """Return the classes, one a line, after their ids in COCO results."""
    pairs = zip(model.classes.ids, model.classes.names, strict=True)
    return "\n".join(f"{number:>5}  {name}" for number, name in pairs)


def _progress() -> Progress:
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    console = open_console(stderr=True)
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
