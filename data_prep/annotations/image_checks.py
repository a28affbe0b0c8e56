"""Check an image file against its annotation, without decoding it where possible.

The header gives format and size. A truncated file lacks its end marker; only then, or on request, is it
decoded, which takes twenty times as long as copying it.
"""

from dataclasses import dataclass
from pathlib import Path

from data_prep.annotations.coco import Image
from qdet.data.image.decode import decode, kind_of, size_hw
from qdet.errors import DataError

_ENDS = {"jpg": b"\xff\xd9", "png": b"IEND\xaeB`\x82"}


@dataclass(frozen=True, kw_only=True)
class Checks:
    """How thoroughly images are checked."""

    max_pixels: int
    """Size of the largest image accepted."""
    decode: bool
    """Decode every image, not only those without end marker."""


def check_image(folder: Path, image: Image, checks: Checks) -> tuple[bytes, str]:
    """Read an image below `folder` and check it; return its bytes and format ("jpg", "png", ...).

    Raises:
        DataError: The file is missing, damaged, too large or of another size than annotated.
    """
    path = folder / image.file_name
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} (image {image.id}) cannot be read: {error.strerror or error}") from error
    name = f"{path} (image {image.id})"
    kind = kind_of(data, name=name)
    height, width = size_hw(data, name=name)
    if (height, width) != (image.height, image.width):
        transposed = (width, height) == (image.height, image.width)
        hint = "; rotated by its EXIF orientation? Store the pixels upright" if transposed else ""
        raise DataError(
            f"{name} is {width}x{height} pixels, the annotation file says {image.width}x{image.height}{hint}"
        )
    if height * width > checks.max_pixels:
        raise DataError(
            f"{name} has {height * width} pixels, more than --max-pixels {checks.max_pixels}; "
            "make it smaller or raise the limit"
        )
    if checks.decode or kind not in _ENDS or not data.endswith(_ENDS[kind]):
        decode(data, name=name)
    return data, kind
