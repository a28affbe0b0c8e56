"""A dataset as training sees it: the images of its batches, padding included, with their objects."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image, ImageDraw

from qdet.data.shards.categories import Categories
from qdet.types import Batch
from qdet.visualize.boxes import FAINT, INK, PAPER, DrawnBoxes, contact_sheet, draw
from qdet.visualize.drawing.lettering import load_font

_BAR = 22
_HATCH = (70, 70, 78)


@dataclass(frozen=True)
class TrainingSample:
    """One image of a batch."""

    image: UInt8[np.ndarray, "H W 3"]
    """The bytes that the detector gets; padding at the right and bottom is zero."""
    size_hw: tuple[int, int]
    """Height and width without padding."""
    original_hw: tuple[int, int]
    """Height and width of the image file."""
    image_id: int
    boxes_xyxy: Float[np.ndarray, "n 4"]
    """Objects to find, in pixels of `image`."""
    labels: Int[np.ndarray, " n"]


def samples_of(batch: Batch) -> list[TrainingSample]:
    """Take a batch apart."""
    images = batch.images.permute(0, 2, 3, 1).cpu().numpy()
    sizes, originals = batch.sizes_hw.tolist(), batch.original_hw.tolist()
    return [
        TrainingSample(
            images[i],
            (sizes[i][0], sizes[i][1]),
            (originals[i][0], originals[i][1]),
            int(batch.image_ids[i]),
            boxes.double().cpu().numpy(),
            labels.cpu().numpy(),
        )
        for i, (boxes, labels) in enumerate(batch.targets.per_image())
    ]


def draw_samples(
    samples: Sequence[TrainingSample], classes: Categories, *, size: int = 384, title: str = ""
) -> UInt8[np.ndarray, "h w 3"]:
    """Lay out samples on a sheet, each about `size` pixels high or wide.

    Small images are enlarged by a whole number, so that each of their pixels is seen unchanged.
    """
    return contact_sheet([_draw(sample, classes, size) for sample in samples], title=title)


def _draw(sample: TrainingSample, classes: Categories, size: int) -> UInt8[np.ndarray, "h w 3"]:
    image, scale = resample(sample.image, size)
    boxes = DrawnBoxes(sample.boxes_xyxy * scale, sample.labels)
    height, width = (round(side * scale) for side in sample.size_hw)
    shown = draw(_hatch_padding(image, height, width), boxes, dict(enumerate(classes.names)))
    page = Image.new("RGB", (shown.shape[1], shown.shape[0] + _BAR), PAPER)
    page.paste(Image.fromarray(shown))
    pen = ImageDraw.Draw(page)
    middle = shown.shape[0] + _BAR / 2
    pen.text((0, middle), f"image {sample.image_id}", fill=INK, font=load_font(13), anchor="lm")
    pen.text((page.width, middle), _describe_size(sample), fill=FAINT, font=load_font(12), anchor="rm")
    return np.asarray(page)


def resample(image: UInt8[np.ndarray, "H W 3"], size: int) -> tuple[UInt8[np.ndarray, "h w 3"], float]:
    """Enlarge by the whole number that brings the longer side nearest to `size` from below, or reduce to it.

    Returns:
        The image, and its pixels per pixel of the given one.
    """
    longest = max(image.shape[:2])
    if longest <= size:
        times = size // longest
        return image.repeat(times, axis=0).repeat(times, axis=1), float(times)
    scale = size / longest
    new = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    return np.asarray(Image.fromarray(image).resize(new, Image.Resampling.LANCZOS)), scale


def _describe_size(sample: TrainingSample) -> str:
    (height, width), (now_height, now_width) = sample.original_hw, sample.size_hw
    return f"{width}x{height} → {now_width}x{now_height}"


def _hatch_padding(image: UInt8[np.ndarray, "h w 3"], height: int, width: int) -> UInt8[np.ndarray, "h w 3"]:
    """Mark what is right of and below an image of that size by slanted lines and an edge."""
    page = Image.fromarray(image)
    for left, top, right, bottom in ((width, 0, page.width, page.height), (0, height, width, page.height)):
        if right > left and bottom > top:
            page.paste(_hatched(right - left, bottom - top), (left, top))
    return np.asarray(page)


def _hatched(width: int, height: int) -> Image.Image:
    padding = Image.new("RGB", (width, height))
    pen = ImageDraw.Draw(padding)
    for x in range(-height, width, 10):
        pen.line((x, height, x + height, 0), fill=_HATCH)
    pen.rectangle((0, 0, width - 1, height - 1), outline=_HATCH)
    return padding
