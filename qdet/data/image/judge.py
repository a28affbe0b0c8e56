"""Whether an image can be used: one answer for conversion, verification, training, evaluation and prediction.

Refused is what loses pixels, has pixels of an unknown range, is larger than allowed, or has another size than
its annotation says. All else is taken, so that training reads what conversion accepted.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8

from qdet.data.image.decode import check_pixels, decode, kind_of, size_hw
from qdet.data.image.orientation import TRANSPOSED, orientation_of
from qdet.errors import DataError

MAX_PIXELS = "--data.max-pixels"
"""Flag that raises the limit of pixels in training."""


@dataclass(frozen=True)
class Judged:
    """An image that can be used, as far as it was looked at."""

    kind: str
    """File extension of its format, such as "jpg"."""
    size_hw: tuple[int, int]
    """Stored height and width in pixels."""


def judge(data: bytes, *, name: str, max_pixels: int, flag: str = MAX_PIXELS, pixels: bool = False) -> Judged:
    """Judge an image file by its header or, with `pixels`, by all of its data.

    Args:
        data: The file.
        name: Of the image, for errors.
        max_pixels: Larger images are refused, before anything is decoded: a header may announce any number.
        flag: Flag that raises that limit, for errors.
        pixels: Whether its data is looked through too; nearly as slow as decoding it.

    Raises:
        DataError: It cannot be used.
    """
    kind = kind_of(data, name=name)
    height, width = size_hw(data, name=name)
    check_count(height, width, max_pixels, name=name, flag=flag)
    if pixels:
        check_pixels(data, name=name)
    return Judged(kind, (height, width))


def decode_judged(
    data: bytes,
    *,
    name: str,
    max_pixels: int,
    expected_hw: tuple[int, int] | None = None,
    source: str = "",
) -> UInt8[np.ndarray, "h w 3"]:
    """Judge and decode an image file; see `judge`.

    Args:
        data: The file.
        name: Of the image, for errors.
        max_pixels: Larger images are refused.
        expected_hw: Height and width that `source` says it has.
        source: What says so, with the remedy after a semicolon.
    """
    judged = judge(data, name=name, max_pixels=max_pixels)
    if expected_hw is not None:
        check_size(data, judged.size_hw, expected_hw, name=name, source=source)
    return decode(data, name=name)


def check_count(height: int, width: int, most: int, *, name: str, flag: str = MAX_PIXELS) -> None:
    """Raise DataError for more than `most` pixels."""
    if height * width > most:
        raise DataError(
            f"{name} has {width}x{height} pixels, more than {flag} {most}; make it smaller, or "
            "raise the limit if you trust it"
        )


def check_size(
    data: bytes, size_hw: tuple[int, int], said_hw: tuple[int, int], *, name: str, source: str
) -> None:
    """Raise DataError if an image has another size than `source` says, and say why where it shows."""
    if size_hw == said_hw:
        return
    (height, width), (said_height, said_width) = size_hw, said_hw
    what, _, remedy = source.partition("; ")
    hint = f"; {remedy}" if remedy else ""
    if (width, height) == said_hw:
        hint = (
            "; rotated by its EXIF orientation? Store the pixels upright"
            if orientation_of(data, name=name) in TRANSPOSED
            else "; width and height are swapped there, and the image has no EXIF orientation: correct them"
        )
    raise DataError(f"{name} is {width}x{height} pixels, {what} {said_width}x{said_height}{hint}")
