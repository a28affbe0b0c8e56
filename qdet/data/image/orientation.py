"""EXIF orientation: viewers turn or mirror an image by it, qdet reads datasets as they are stored."""

import io

from PIL import Image

from qdet.data.image.decode import kind_of

TRANSPOSED = (5, 6, 7, 8)
"""Orientations that swap width and height."""
_ORIENTATION = 0x0112
_EXIF = {"jpg": (b"Exif\0\0",), "png": (b"eXIf", b"Raw profile type"), "webp": (b"EXIF",)}
"""What the bytes of a file with EXIF hold, by kind."""


def may_have_exif(data: bytes, kind: str) -> bool:
    """Whether the bytes of an image file hold what EXIF begins with; always True for TIFF."""
    return kind == "tif" or any(mark in data for mark in _EXIF.get(kind, ()))


def orientation_of(data: bytes, *, name: str) -> int:
    """EXIF orientation, 1 to 8; 1 where there is none or it makes no sense."""
    kind = kind_of(data, name=name)
    if not may_have_exif(data, kind):
        return 1  # saves Pillow's parsing, which decodes whole PNGs
    try:
        with Image.open(io.BytesIO(data)) as image:
            found = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # broken metadata of a sound image
        return 1
    return found if found in range(1, 9) else 1
