"""Image bytes to pixels: what kind of file it is, how large it is, and its RGB values as they are stored.

The EXIF orientation is ignored, because COCO's boxes are in stored pixels. JPEG goes through simplejpeg,
which gives the same values as Pillow in two thirds of the time and, unlike Pillow, refuses a damaged body.
Other formats go through Pillow; 16 bits of grey become 8. Whether an image can be used is for
`qdet.data.image.judge` to say.
"""

import io
import re

import numpy as np
import simplejpeg
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError

from qdet.data.image.jpeg import check_jpeg, decode_jpeg
from qdet.errors import DataError
from qdet.storage.file_kinds import misplaced_kind

# Pillow's own limit of pixels would stand in the way of a higher --max-pixels: the judge alone decides,
# by the header, before anything is decoded.
Image.MAX_IMAGE_PIXELS = None

_OBJECT = re.compile(r"<\S+ object at 0x[0-9a-f]+>")

_PLAIN = frozenset({"1", "L", "LA", "P", "RGB", "RGBA", "CMYK"})
"""Modes of Pillow that are always converted to RGB."""

_MAGIC = (
    (b"\xff\xd8\xff", "jpg"),
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"GIF8", "gif"),
    (b"BM", "bmp"),
    (b"II*\x00", "tif"),
    (b"MM\x00*", "tif"),
)


def kind_of(data: bytes, *, name: str) -> str:
    """File extension that the first bytes call for, whatever the file is called."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    for magic, kind in _MAGIC:
        if data.startswith(magic):
            return kind
    if (other := misplaced_kind(data)) is not None:
        raise DataError(f"{name} is {other}")
    raise DataError(f"{name} is no JPEG, PNG, WebP, BMP, GIF or TIFF image ({len(data)} bytes)")


def size_hw(data: bytes, *, name: str) -> tuple[int, int]:
    """Height and width that the header announces; decodes nothing."""
    kind = kind_of(data, name=name)
    try:
        if kind == "jpg":
            height, width, _, _ = simplejpeg.decode_jpeg_header(data)
        else:
            with _open(data) as image:
                _check_depth(image)
                width, height = image.size
    except Exception as error:
        raise DataError(f"{name} is no readable {kind} image: {_explain(error)}") from error
    return int(height), int(width)


def decode(data: bytes, *, name: str) -> UInt8[np.ndarray, "h w 3"]:
    """Decode to RGB; `name` says in errors which image it is."""
    kind = kind_of(data, name=name)
    try:
        if kind == "jpg":
            return decode_jpeg(data)
        with _open(data) as image:
            return to_rgb(image)
    except Exception as error:
        raise DataError(f"{name} is no readable {kind} image: {_explain(error)}") from error


def check_pixels(data: bytes, *, name: str) -> None:
    """Raise DataError where `decode` would; half of its time for a JPEG."""
    kind = kind_of(data, name=name)
    try:
        if kind == "jpg":
            check_jpeg(data)
            return
        with _open(data) as image:
            image.load()
            if image.mode not in _PLAIN:
                to_rgb(image)
    except Exception as error:
        raise DataError(f"{name} is no readable {kind} image: {_explain(error)}") from error


def to_rgb(image: Image.Image) -> UInt8[np.ndarray, "h w 3"]:
    """Return the pixels of Pillow's image.

    Raises:
        ValueError: They have a range that nobody knows, or the file is damaged.
    """
    _check_depth(image)
    if image.mode.startswith("I;16"):
        grey = np.rint(np.asarray(image).astype(np.float32) / 257).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    return np.array(image.convert("RGB"))


def _check_depth(image: Image.Image) -> None:
    """Raise ValueError for pixels whose range nobody knows; the header says it."""
    if image.mode in ("I", "F"):
        bits = "32-bit integers" if image.mode == "I" else "floating-point numbers"
        raise ValueError(f"its pixels are {bits}; save it with 8 or 16 bits per channel")


def _explain(error: Exception) -> str:
    """Return the reason without the address of the object in memory that Pillow calls the image."""
    if isinstance(error, UnidentifiedImageError):
        return "its header is damaged, or of a kind that Pillow does not read"
    return _OBJECT.sub("it", str(error)) or type(error).__name__


def _open(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))
