"""Large images in overlapping tiles, so that small objects are seen at a size the model knows.

`supervision` cuts and merges: what two tiles both found is kept once, by non-maximum suppression per class.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import UInt8

from qdet.data.shards.categories import Categories
from qdet.errors import DataError
from qdet.inference.batches import Preparation, detect_in
from qdet.inference.detections import Detections, Unreadable
from qdet.inference.pictures import Picture, open_picture
from qdet.inference.runner import Runner

if TYPE_CHECKING:
    import supervision

OVERLAP = 0.2
"""Share of a tile that its neighbour sees as well: objects up to that size are whole in one of them."""
LEAST_SCORE = 0.05
"""Detections of a tile below it are left out, where nothing else is asked for, before tiles are merged."""
SAME = 0.5
"""IoU from which two boxes of a class are one object."""


def detect_in_tiles(
    pictures: Sequence[Picture],
    runner: Runner,
    classes: Categories,
    preparation: Preparation,
    tile_hw: tuple[int, int],
    *,
    least_score: float = 0.0,
) -> Iterator[tuple[int, Detections | Unreadable]]:
    """Yield what is found in each picture with its number, in their order.

    Args:
        pictures: Images of any size; one that is no larger than a tile is predicted whole.
        runner: The model.
        classes: Names and ids of its classes.
        preparation: How tiles are resized and batched.
        tile_hw: Height and width of a tile in pixels.
        least_score: Leave out what scores less; at least `LEAST_SCORE`.
    """
    import supervision

    least_score = max(least_score, LEAST_SCORE)

    def detect_tiles(tiles: list[UInt8[np.ndarray, "_ _ 3"]]) -> "list[supervision.Detections]":
        opened = [open_picture(np.ascontiguousarray(tile), number=i) for i, tile in enumerate(tiles)]
        found = dict(detect_in(opened, runner, classes, preparation))
        return [_within(found[i], least_score).to_supervision() for i in range(len(tiles))]

    slicer = supervision.InferenceSlicer(
        callback=detect_tiles,
        slice_wh=(tile_hw[1], tile_hw[0]),
        overlap_wh=(round(tile_hw[1] * OVERLAP), round(tile_hw[0] * OVERLAP)),
        iou_threshold=SAME,
        batch_size=max(2, preparation.batch_size),  # with 1 it hands tiles over one by one, not as a list
    )
    for number, picture in enumerate(pictures):
        try:
            image = picture.decode()
        except DataError as error:
            yield number, Unreadable(picture.name, str(error))
            continue
        yield number, _join(slicer(image), classes, picture)


def _within(found: Detections | Unreadable, score: float) -> Detections:
    """Return the detections of at least that score, clipped to their tile."""
    if isinstance(found, Unreadable):  # an array is always readable
        raise DataError(found.reason)
    height, width = found.size_hw
    boxes = np.clip(found.boxes_xyxy, 0, np.array((width, height, width, height), np.float32))
    return replace(found, boxes_xyxy=boxes).above(score)


def _join(merged: "supervision.Detections", classes: Categories, picture: Picture) -> Detections:
    order = np.argsort(-_column(merged.confidence, np.float32), kind="stable")
    return Detections(
        boxes_xyxy=np.asarray(merged.xyxy, np.float32).reshape(-1, 4)[order],
        scores=_column(merged.confidence, np.float32)[order],
        labels=_column(merged.class_id, np.int64)[order],
        classes=classes,
        picture=picture,
    )


def _column(values: np.ndarray | None, dtype: type[np.generic]) -> np.ndarray:
    return np.zeros(0, dtype) if values is None else np.asarray(values, dtype)
