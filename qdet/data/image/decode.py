"""Image bytes to pixels: what kind of file it is, how large it is, and its RGB values as they are stored.

The EXIF orientation is ignored, because COCO's boxes are in stored pixels. JPEG goes through simplejpeg,
which gives the same values as Pillow in two thirds of the time and, unlike Pillow, refuses a damaged body;
other formats go through Pillow.
"""

import io
import re

import numpy as np
import simplejpeg
from jaxtyping import UInt8
from PIL import Image

from qdet.errors import DataError

# Pillow's own limit of pixels would stand in the way of a higher --max-pixels: `check_pixels` alone decides,
# by the header, before anything is decoded.
Image.MAX_IMAGE_PIXELS = None

_OBJECT = re.compile(r"<\S+ object at 0x[0-9a-f]+>")

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
    raise DataError(f"{name} is no JPEG, PNG, WebP, BMP, GIF or TIFF image ({len(data)} bytes)")


def size_hw(data: bytes, *, name: str) -> tuple[int, int]:
    """Height and width that the header announces; decodes nothing."""
    kind = kind_of(data, name=name)
    try:
        if kind == "jpg":
            height, width, _, _ = simplejpeg.decode_jpeg_header(data)
        else:
            with _open(data) as image:
                width, height = image.size
    except Exception as error:
        raise DataError(f"{name} is no readable {kind} image: {_explain(error)}") from error
    return int(height), int(width)


def check_pixels(height: int, width: int, most: int, *, name: str) -> None:
    """Raise DataError for more than `most` pixels; the header of an image may announce any number."""
    if height * width > most:
        raise DataError(
            f"{name} has {width}x{height} pixels, more than --data.max-pixels {most}; make it smaller, or "
            "raise the limit if you trust it"
        )


def decode(data: bytes, *, name: str) -> UInt8[np.ndarray, "h w 3"]:
    """Decode to RGB; `name` says in errors which image it is."""
    kind = kind_of(data, name=name)
    try:
        if kind == "jpg":
            return simplejpeg.decode_jpeg(data, colorspace="RGB")
        with _open(data) as image:
            if image.mode[0] in "IF":
                raise ValueError(
                    f"its pixels are {image.mode}, more than 8 bits; save it with 8 bits per channel"
                )
            return np.array(image.convert("RGB"))
    except Exception as error:
        raise DataError(f"{name} is no readable {kind} image: {_explain(error)}") from error


def _explain(error: Exception) -> str:
    """Return the reason without the address of the object in memory that Pillow calls the image."""
    return _OBJECT.sub("it", str(error)) or type(error).__name__


def _open(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))
