"""One sample as training sees it: read, decoded, joined with others where planned, taken along its view."""

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import cv2
import numpy as np
from jaxtyping import Float64, Int64, Integer, UInt8

from qdet.data.image.judge import decode_judged
from qdet.data.image.photometric import distort
from qdet.data.image.pipelines import RULES, Pipeline
from qdet.data.image.resize import HW
from qdet.data.image.view import Canvas, View, view_boxes, view_image
from qdet.data.shards.categories import Categories


@runtime_checkable
class Sizes(Protocol):
    """Columns of an index that every sample has."""

    @property
    def image_id(self) -> Int64[np.ndarray, " n"]:
        """The dataset's own id."""
        ...

    @property
    def height(self) -> Integer[np.ndarray, " n"]:
        """Of the image file, in pixels."""
        ...

    @property
    def width(self) -> Integer[np.ndarray, " n"]:
        """Of the image file, in pixels."""
        ...


Pixels = UInt8[np.ndarray, "h w 3"]
FILL = 114
"""Grey where a canvas shows no sample, as in YOLOX and mmdetection."""


@runtime_checkable
class Samples(Protocol):
    """Samples by their row, wherever their bytes are."""

    @property
    def categories(self) -> Categories:
        """Their classes."""
        ...

    @property
    def index(self) -> Sizes:
        """Ids and sizes of their images."""
        ...

    @property
    def max_pixels(self) -> int:
        """Largest image that is decoded."""
        ...

    def name_of(self, row: int) -> str:
        """Shard and key of a sample, for messages."""
        ...

    def number_of(self, row: int) -> int:
        """A number of the sample's own, whatever batch it is in; its noise is drawn by it."""
        ...

    def read_image(self, row: int) -> bytes:
        """The image file of a sample, untouched."""
        ...

    def read_annotation(self, row: int) -> dict[str, Any]:
        """Its boxes as they were annotated, in columns."""
        ...


@dataclass(frozen=True)
class Objects:
    """What there is in an image to train on."""

    boxes_xyxy: Float64[np.ndarray, "m 4"]
    """Corners in pixels."""
    labels: Int64[np.ndarray, " m"]
    """Class indices."""


def load_sample(shards: Samples, row: int, view: View, out: Pixels) -> Objects:
    """Draw a sample into `out`, which is of its final size, and return the objects that are left in it."""
    if view.mosaic is None:
        image, objects = load_image(shards, row), load_objects(shards, row, view.pipeline)
    else:
        image, objects = _draw(shards, view.mosaic)
    view_image(image, view, out)
    objects = _view_objects(objects, view, (image.shape[0], image.shape[1]))
    if view.mixup is not None:
        partner, others = _draw(shards, view.mixup)
        objects = _join([objects, others])
        cv2.addWeighted(out, 0.5, partner, 0.5, 0, dst=out)
    if view.distortion is not None:
        distort(out, view.distortion)
    return objects


def load_image(shards: Samples, row: int) -> Pixels:
    """Decode one image; DataError, before decoding, if it is not of the size that the index says."""
    data, name = shards.read_image(row), shards.name_of(row)
    return decode_judged(
        data,
        name=name,
        max_pixels=shards.max_pixels,
        expected_hw=(int(shards.index.height[row]), int(shards.index.width[row])),
        source="its index says; convert the dataset again",
    )


def load_objects(shards: Samples, row: int, pipeline: Pipeline = "detr") -> Objects:
    """Annotated objects of one image, in its own pixels, without crowds and what the pipeline leaves out."""
    sample = shards.read_annotation(row)
    boxes = np.array(sample["boxes_xywh"], dtype=np.float64).reshape(-1, 4)
    taken = np.array(sample["iscrowd"], dtype=np.int64) == 0
    if least := RULES[pipeline].least_annotated:
        taken &= (boxes[:, 2:] >= least).all(axis=1) & (np.array(sample["areas"], dtype=np.float64) > 0)
    boxes[:, 2:] += boxes[:, :2]
    labels = shards.categories.contiguous(sample["category_ids"])
    return Objects(boxes[taken], labels[taken])


def _draw(shards: Samples, canvas: Canvas) -> tuple[Pixels, Objects]:
    """Draw each piece at its place, and gather the objects there."""
    image = np.full((*canvas.size_hw, 3), FILL, dtype=np.uint8)
    found = []
    for piece in canvas.pieces:
        (top, left), (h, w) = piece.at_tl, piece.view.final_hw
        here = load_sample(shards, piece.row, piece.view, image[top : top + h, left : left + w])
        found.append(Objects(here.boxes_xyxy + np.array((left, top, left, top)), here.labels))
    return image, _join(found)


def _view_objects(objects: Objects, view: View, size_hw: HW) -> Objects:
    boxes, kept = view_boxes(objects.boxes_xyxy, view, size_hw)
    return Objects(boxes, objects.labels[kept])


def _join(parts: list[Objects]) -> Objects:
    return Objects(
        np.concatenate([part.boxes_xyxy for part in parts]), np.concatenate([part.labels for part in parts])
    )
