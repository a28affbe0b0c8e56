"""A loaded model: predicts in images of any kind, one or a million."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack, overload

import numpy as np
from PIL import Image
from torch import Tensor

from qdet.data.augment import AugmentConfig
from qdet.data.shards.categories import Categories
from qdet.detectors.detector import Detector
from qdet.errors import ConfigError, DataError
from qdet.inference import SCORE
from qdet.inference.batches import Preparation, detect_in, resize_to
from qdet.inference.description import Description
from qdet.inference.detections import Detections, Unreadable
from qdet.inference.pictures import MAX_PIXELS, Picture, is_one_image, open_picture
from qdet.inference.runner import DetectorRunner, Runner
from qdet.inference.tiles import detect_in_tiles

OnError = Literal["raise", "return"]
OneImage = str | Path | bytes | Image.Image | np.ndarray | Tensor | Picture
WINDOW = 4
"""Batches of an iterator's images that are read before the first of them are predicted."""


class _Options(TypedDict, total=False):
    """Keywords of `Model.predict`, for type checkers."""

    score: float
    batch: int | None
    size: int | None
    tile: int | tuple[int, int] | None
    max_pixels: int
    errors: OnError


@dataclass(frozen=True, eq=False)
class Model:
    """A trained model, made by `qdet.load`.

    >>> model = qdet.load("outputs/RUN")
    >>> model.predict("street.jpg").draw().save("found.png")
    """

    description: Description
    """Classes, settings, origin."""
    runner: Runner = field(repr=False)
    """What computes."""

    @property
    def classes(self) -> Categories:
        """Names and ids of the classes, in the order of labels."""
        return self.description.classes

    @property
    def detector(self) -> Detector:
        """The PyTorch module, in evaluation mode.

        Raises:
            ConfigError: The model was loaded from a file that holds a graph instead.
        """
        if not isinstance(self.runner, DetectorRunner):
            raise ConfigError(
                f"{self.description.source} holds a graph; load its checkpoint or .safetensors for a detector"
            )
        return self.runner.detector

    @overload
    def predict(self, images: OneImage, **options: Unpack[_Options]) -> Detections: ...

    @overload
    def predict(self, images: Sequence[OneImage], **options: Unpack[_Options]) -> list[Detections]: ...

    @overload
    def predict(self, images: Iterator[OneImage], **options: Unpack[_Options]) -> Iterator[Detections]: ...

    def predict(
        self,
        images: Any,
        *,
        score: float = SCORE,
        batch: int | None = None,
        size: int | None = None,
        tile: int | tuple[int, int] | None = None,
        max_pixels: int = MAX_PIXELS,
        errors: OnError = "raise",
    ) -> Any:
        """Detect objects in images.

        Args:
            images: A path or URL, bytes, a PIL image, an array [H, W, 3] or tensor [3, H, W] of uint8; or a
                list of such, or an iterator, of which no more is read than the next few batches need.
            score: Leave out detections below it; 0 keeps as many per image as the model gives.
            batch: Images per forward pass; by default as many as the job evaluated with.
            size: Short side in pixels that images are resized to; by default that of the job's evaluation.
            tile: Side of the tiles, or height and width, that large images are cut into, for small objects.
            max_pixels: Larger images are refused.
            errors: Raise for an image that cannot be read, or `return` an `Unreadable` in its place.

        Returns:
            `Detections` of one image, a list of them for a list, an iterator for an iterator.

        Raises:
            DataError: An image cannot be read; the message names it.
            ConfigError: A setting cannot work.
        """
        settings = self._settings(score, batch, size, tile, max_pixels)
        if is_one_image(images):
            return _pick(next(self._predict([images], settings)), errors)
        if isinstance(images, list | tuple) or hasattr(images, "shape"):
            return [_pick(found, errors) for found in self._predict(list(images), settings)]
        if not isinstance(images, Iterable) or isinstance(images, Mapping) or hasattr(images, "read"):
            raise DataError(
                f"{type(images).__name__} is no image and no list of images; of a file give the path or bytes"
            )
        return (_pick(found, errors) for found in self._predict_lazily(iter(images), settings))

    def detect(
        self,
        pictures: list[Picture],
        *,
        score: float = 0.0,
        batch: int | None = None,
        size: int | None = None,
        tile: int | tuple[int, int] | None = None,
    ) -> Iterator[tuple[int, Detections | Unreadable]]:
        """Yield what is found in opened pictures with their numbers as soon as it is, the largest first.

        Arguments and errors are those of `predict`, but for `score`: by default all are kept.
        """
        return self._detect(pictures, self._settings(score, batch, size, tile, MAX_PIXELS))

    def _settings(
        self,
        score: float,
        batch: int | None,
        size: int | None,
        tile: int | tuple[int, int] | None,
        max_pixels: int,
    ) -> "_Settings":
        if not 0 <= score <= 1:
            raise ConfigError(f"score must be between 0 and 1, got {score}")
        if batch is not None and batch < 1:
            raise ConfigError(f"batch must be at least 1, got {batch}")
        tile_hw = (tile, tile) if isinstance(tile, int) else tile
        if tile_hw is not None and min(tile_hw) < 16:
            raise ConfigError(f"tile must be at least 16 pixels, got {tile}")
        return _Settings(
            score=score,
            batch=batch or self.description.eval.batch_size,
            augment=resize_to(self.description.augment, size),
            tile_hw=tile_hw,
            max_pixels=max_pixels,
        )

    def _predict_lazily(
        self, images: Iterator[Any], settings: "_Settings"
    ) -> Iterator[Detections | Unreadable]:
        """Predict window by window, each in batches of like size."""
        start = 0
        while window := list(islice(images, WINDOW * settings.batch)):
            yield from self._predict(window, settings, start=start)
            start += len(window)

    def _predict(
        self, images: list[Any], settings: "_Settings", *, start: int = 0
    ) -> Iterator[Detections | Unreadable]:
        """Predict in all of `images`, in their order."""
        results: dict[int, Detections | Unreadable] = {}
        opened: list[tuple[int, Picture]] = []
        for number, given in enumerate(images):
            picture = _open(given, start + number, settings.max_pixels)
            if isinstance(picture, Unreadable):
                results[number] = picture
            else:
                opened.append((number, picture))
        for place, found in self._detect([picture for _, picture in opened], settings):
            results[opened[place][0]] = found
        return (results[number] for number in range(len(images)))

    def _detect(
        self, pictures: list[Picture], settings: "_Settings"
    ) -> Iterator[tuple[int, Detections | Unreadable]]:
        preparation = Preparation(settings.augment, settings.batch)
        if settings.tile_hw is None:
            found = detect_in(pictures, self.runner, self.classes, preparation)
        else:
            found = detect_in_tiles(
                pictures, self.runner, self.classes, preparation, settings.tile_hw, least_score=settings.score
            )
        for number, one in found:
            if isinstance(one, Detections) and settings.score > 0:
                one = one.above(settings.score)
            yield number, one


@dataclass(frozen=True, kw_only=True)
class _Settings:
    """What a call of `predict` asks for."""

    score: float
    batch: int
    augment: AugmentConfig
    tile_hw: tuple[int, int] | None
    max_pixels: int


def _open(given: Any, number: int, max_pixels: int) -> Picture | Unreadable:
    try:
        return open_picture(given, number=number, max_pixels=max_pixels)
    except DataError as error:
        name = str(given) if isinstance(given, str) or hasattr(given, "__fspath__") else f"image {number}"
        return Unreadable(name, str(error))


def _pick(found: Detections | Unreadable, errors: OnError) -> Detections | Unreadable:
    if isinstance(found, Unreadable) and errors == "raise":
        raise DataError(found.reason)
    return found
