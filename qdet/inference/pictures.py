"""Images as users give them: paths, URLs, bytes, PIL images, arrays and tensors, all to RGB bytes.

What comes as a file is turned upright as its EXIF orientation says, which viewers do too, so that boxes are
in pixels of the image as it is seen. Datasets keep their stored pixels instead, which COCO's boxes are in.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from qdet.data.image.decode import decode, kind_of, to_rgb
from qdet.data.image.judge import check_count, judge
from qdet.data.image.orientation import TRANSPOSED, orientation_of
from qdet.data.shards.locate import Access
from qdet.errors import DataError, StorageError
from qdet.storage import Folder
from qdet.storage.urls import checked, is_url

MAX_PIXELS = Access.max_pixels
"""Pixels of the largest image that is decoded."""
FLAG = "--max-pixels"
"""What raises that limit, for errors: `max_pixels=` from Python."""
MAX_BYTES = 512 * 2**20
"""Bytes of the largest image file that is read."""


@dataclass(frozen=True)
class Picture:
    """An image that can be decoded, once or again."""

    name: str
    """Path, URL or number, for messages."""
    size_hw: tuple[int, int]
    """Height and width in pixels, as `decode` gives them."""
    decode: Callable[[], UInt8[np.ndarray, "h w 3"]] = field(repr=False)
    """Return its RGB values, upright; `DataError` where the file is damaged."""
    note: str = ""
    """What a user should know of it, such as that it is animated."""


def open_picture(given: Any, *, number: int = 0, max_pixels: int = MAX_PIXELS) -> Picture:
    """Open what a user gave as an image; nothing is decoded yet.

    Args:
        given: A path or URL (str or Path), the bytes of an image file, a PIL image, an array [H, W, 3] or
            [H, W] of uint8, or a tensor [3, H, W] of uint8.
        number: Of the image among those that were given, for messages.
        max_pixels: Larger images are refused.

    Raises:
        DataError: It is no image, cannot be read or is too large; the message names it.
    """
    if isinstance(given, Picture):
        return given
    if isinstance(given, str | Path):
        return _of_file(str(given), max_pixels)
    name = f"image {number}"
    if isinstance(given, bytes | bytearray | memoryview):
        data = bytes(given)
        return _of_bytes(name, lambda: data, max_pixels)
    if isinstance(given, Image.Image):
        name = str(getattr(given, "filename", "") or name)
        return _of_array(name, _from_pil(given, name, max_pixels))
    if isinstance(given, np.ndarray):
        return _of_array(name, _check_array(given, name))
    return _of_array(name, _from_tensor(given, name))


def is_one_image(given: Any) -> bool:
    """True for a single image; False for a list or an iterator of them."""
    if isinstance(given, str | Path | bytes | bytearray | memoryview | Image.Image | Picture):
        return True
    ndim = getattr(given, "ndim", None)  # an array or tensor; one of four dimensions is a list of images
    return ndim is not None and ndim < 4


def _of_file(name: str, max_pixels: int) -> Picture:
    where = checked(name)
    if is_url(where):
        data = _read(where)  # once: every reading goes over the network
        return _of_bytes(name, lambda: data, max_pixels)
    return _of_bytes(name, partial(_read, where), max_pixels)


def _of_bytes(name: str, read: Callable[[], bytes], max_pixels: int) -> Picture:
    data = read()
    height, width = judge(data, name=name, max_pixels=max_pixels, flag=FLAG).size_hw
    if orientation_of(data, name=name) in TRANSPOSED:
        height, width = width, height

    def decoded() -> UInt8[np.ndarray, "h w 3"]:
        again = read()
        return _upright(decode(again, name=name), orientation_of(again, name=name))

    return Picture(name, (height, width), decoded, _note(data, name))


def _of_array(name: str, array: UInt8[np.ndarray, "h w 3"]) -> Picture:
    return Picture(name, (array.shape[0], array.shape[1]), lambda: array)


def _read(where: str) -> bytes:
    """Read a file of at most MAX_BYTES."""
    try:
        folder, name = Folder.holding(where)
        if (size := folder.size(name)) is None:
            what = "is a folder" if not is_url(where) and Path(where).is_dir() else "is not there"
            raise DataError(f"{where} {what}; give the path or URL of an image file")
        if size > MAX_BYTES:
            raise DataError(f"{where} has {size:,} bytes, more than an image file may have ({MAX_BYTES:,})")
        return folder.read(name)
    except StorageError as error:
        raise DataError(str(error)) from error
    except (OSError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{where} cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _note(data: bytes, name: str) -> str:
    """Say where a file holds more than one image."""
    if kind_of(data, name=name) in ("jpg", "bmp"):
        return ""
    try:
        with Image.open(io.BytesIO(data)) as image:
            frames = getattr(image, "n_frames", 1)
    except Exception:  # what is wrong with it, decoding will say
        return ""
    return f"the first of its {frames} images" if frames > 1 else ""


def _upright(stored: UInt8[np.ndarray, "h w 3"], orientation: int) -> UInt8[np.ndarray, "H W 3"]:
    """Turn stored pixels as an EXIF orientation says (TIFF 6.0, tag 274)."""
    if orientation in (2, 7):
        stored = stored[:, ::-1]
    if orientation in (4, 5):
        stored = stored[::-1]
    turns = {3: 2, 5: 3, 6: 3, 7: 3, 8: 1}.get(orientation, 0)
    return np.ascontiguousarray(np.rot90(stored, turns)) if orientation != 1 else stored


def _from_pil(image: Image.Image, name: str, max_pixels: int) -> UInt8[np.ndarray, "h w 3"]:
    check_count(image.height, image.width, max_pixels, name=name, flag=FLAG)
    try:
        return to_rgb(ImageOps.exif_transpose(image))
    except Exception as error:
        raise DataError(f"{name} cannot be decoded: {error}") from error


def _from_tensor(given: Any, name: str) -> UInt8[np.ndarray, "h w 3"]:
    import torch

    if not isinstance(given, torch.Tensor):
        raise DataError(
            f"{name} is {type(given).__name__}; give a path, URL, bytes, PIL image, array or tensor"
        )
    if given.ndim != 3 or given.shape[0] != 3:
        raise DataError(f"{name}: a tensor must be [3, H, W], got {list(given.shape)}")
    return _check_array(given.detach().cpu().permute(1, 2, 0).numpy(), name)


def _check_array(given: np.ndarray, name: str) -> UInt8[np.ndarray, "h w 3"]:
    """Return the array with three channels."""
    if given.dtype != np.uint8:
        raise DataError(f"{name}: pixels must be uint8, from 0 to 255; got {given.dtype}")
    if given.ndim == 2:
        given = np.repeat(given[..., None], 3, axis=2)
    if given.ndim != 3 or given.shape[2] != 3 or not given.size:
        raise DataError(f"{name}: an array must be [H, W, 3] in RGB or [H, W], got {list(given.shape)}")
    return np.require(given, requirements=["C", "W"])  # torch warns of memory that it may not write to
