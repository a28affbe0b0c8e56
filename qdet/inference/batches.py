"""Pictures in batches of like size, prepared as evaluation does it, and what a model finds in them."""

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from qdet.data.augment import AugmentConfig
from qdet.data.image.resize import HW
from qdet.data.image.view import View, view_image
from qdet.data.loading.buffers import image_memory
from qdet.data.loading.collate import place
from qdet.data.loading.prefetch import read_ahead
from qdet.data.plan.epoch import plan_evaluation
from qdet.data.shards.categories import Categories
from qdet.errors import ConfigError, DataError
from qdet.inference.detections import Detections, Unreadable
from qdet.inference.pictures import MAX_PIXELS, Picture
from qdet.inference.runner import Runner

READERS = 2
"""Threads that decode and resize."""
AHEAD = 2
"""Batches that wait for the model."""


@dataclass(frozen=True)
class PictureBatch:
    """Pictures side by side, as a detector takes them."""

    rows: tuple[int, ...]
    """Which of the given pictures they are."""
    images: UInt8[Tensor, "B 3 H W"]
    sizes_hw: Int64[Tensor, "B 2"]
    original_hw: Int64[Tensor, "B 2"]
    failures: dict[int, str]
    """Why a picture could not be decoded, by its place in the batch."""


@dataclass(frozen=True)
class Preparation:
    """How pictures become batches."""

    augment: AugmentConfig
    """Their size, filter and padding."""
    batch_size: int


def resize_to(augment: AugmentConfig, size: int | None) -> AugmentConfig:
    """Return settings that resize images to the short side `size`, in pixels; None changes nothing.

    Raises:
        ConfigError: It is below 1, or makes images of more than `MAX_PIXELS`, which no memory holds.
    """
    if size is None:
        return augment
    resized = augment.at_size(size)
    if size * resized.max_size > MAX_PIXELS:
        raise ConfigError(
            f"size {size} makes images of up to {size}x{resized.max_size} pixels, more than {MAX_PIXELS:,}; "
            "give a smaller size"
        )
    return resized


def detect_in(
    pictures: Sequence[Picture], runner: Runner, classes: Categories, preparation: Preparation
) -> Iterator[tuple[int, Detections | Unreadable]]:
    """Yield what is found in each picture with its number, the largest pictures first.

    Batches are those of an evaluation of the same pictures, so the numbers are the same, too.
    """
    with closing(prepare(pictures, preparation)) as batches:
        for batch in batches:
            yield from _detect(batch, pictures, runner, classes)


def prepare(pictures: Sequence[Picture], preparation: Preparation) -> Generator[PictureBatch, None, None]:
    """Yield the batches of an evaluation of these pictures, decoded and resized ahead by threads."""
    loads = (partial(_load, pictures, *part) for part in _plan(pictures, preparation))
    return read_ahead(loads, readers=READERS, ahead=AHEAD)


def _detect(
    batch: PictureBatch, pictures: Sequence[Picture], runner: Runner, classes: Categories
) -> Iterator[tuple[int, Detections | Unreadable]]:
    tensors = (batch.images, batch.sizes_hw, batch.original_hw)
    found = runner(*(t.to(runner.device, non_blocking=True) for t in tensors))
    for place_, row in enumerate(dict.fromkeys(batch.rows)):
        picture = pictures[row]
        if place_ in batch.failures:
            yield row, Unreadable(picture.name, batch.failures[place_])
        else:
            yield row, Detections.of_batch(found, place_, classes=classes, picture=picture)


def _plan(
    pictures: Sequence[Picture], preparation: Preparation
) -> Iterator[tuple[list[int], list[View], HW]]:
    """Rows, views and padded size of each batch; a single batch is not filled up."""
    if not pictures:
        return
    sizes = np.array([picture.size_hw for picture in pictures], dtype=np.int64)
    plan = plan_evaluation(sizes, preparation.augment, batch_size=min(preparation.batch_size, len(pictures)))
    for rows, padded in zip(plan.rows.tolist(), plan.padded_hw.tolist(), strict=True):
        yield rows, [plan.views.of(row) for row in rows], (padded[0], padded[1])


def _load(
    pictures: Sequence[Picture], rows: Sequence[int], views: Sequence[View], padded_hw: HW
) -> PictureBatch:
    """Decode and resize into one batch; what cannot be decoded stays black."""
    pixels = image_memory(len(rows), *padded_hw)
    failures = {}
    for number, (row, view) in enumerate(zip(rows, views, strict=True)):
        out = place(pixels[number], view.final_hw)
        try:
            view_image(_decode(pictures[row]), view, out)
        except DataError as error:
            out[:] = 0
            failures[number] = str(error)
    return PictureBatch(
        rows=tuple(rows),
        images=torch.from_numpy(pixels).permute(0, 3, 1, 2),
        sizes_hw=torch.tensor([view.final_hw for view in views]),
        original_hw=torch.tensor([pictures[row].size_hw for row in rows]),
        failures=failures,
    )


def _decode(picture: Picture) -> UInt8[np.ndarray, "h w 3"]:
    image = picture.decode()
    if image.shape[:2] != picture.size_hw:
        raise DataError(f"{picture.name} changed while it was read; try again")
    return image
