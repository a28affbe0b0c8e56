"""Whether an image file is what its annotation says, found out without decoding it where that can be.

The header gives kind and size. A file that was cut off lacks the mark at its end; only then, or when asked,
are its pixels decoded, which takes twenty times as long as copying it.
"""

from dataclasses import dataclass
from pathlib import Path

from data_prep.annotations.coco import Image
from qdet.data.image.decode import decode, kind_of, size_hw
from qdet.errors import DataError

_ENDS = {"jpg": b"\xff\xd9", "png": b"IEND\xaeB`\x82"}


@dataclass(frozen=True, kw_only=True)
class Checks:
    """How closely images are looked at."""

    max_pixels: int
    """The largest image that is taken."""
    decode: bool
    """Whether every image is decoded, complete or not."""


def checked_image(folder: Path, image: Image, checks: Checks) -> tuple[bytes, str]:
    """Read the file of an image below `folder`; return its bytes and what kind of file it is.

    Raises:
        DataError: It is missing, damaged, too large or of another size; the message names file and image.
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
        turned = (width, height) == (image.height, image.width)
        hint = "; turned by its EXIF orientation? Store the pixels upright" if turned else ""
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
