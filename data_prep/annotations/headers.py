"""Size of an image from its header alone, and whether EXIF turns it."""

from dataclasses import dataclass
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from qdet.data.image.decode import size_hw
from qdet.errors import DataError

_LONGEST_SIDE = 65535
_ORIENTATION = 0x0112
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "MPO")
UNREADABLE = (1, 1)
"""Size that an unreadable image is given: packing, which reads all of it, says what is wrong with it."""


@dataclass(frozen=True)
class Header:
    """What the first bytes of an image say."""

    size_wh: tuple[int, int]
    """Stored width and height."""
    turned: bool
    """EXIF asks viewers to turn or mirror it."""


def read_header(file: Path) -> Header:
    """Read the header of an image file; one without a readable header is `UNREADABLE`.

    Raises:
        DataError: A side has more pixels than any index holds.
    """
    try:
        with Image.open(file, formats=_FORMATS) as image:
            header = Header(image.size, image.format in ("JPEG", "MPO") and _is_turned(image))
    except UnidentifiedImageError:
        header = Header(_size_by_all_bytes(file), turned=False)
    except Exception:  # of a hostile header, Pillow's readers raise anything
        header = Header(UNREADABLE, turned=False)
    width, height = header.size_wh
    if not (0 < width <= _LONGEST_SIDE and 0 < height <= _LONGEST_SIDE):
        raise DataError(f"{file} is {width}x{height}; sides must be 1 to {_LONGEST_SIDE} pixels")
    return header


def _is_turned(image: Image.Image) -> bool:
    try:
        return image.getexif().get(_ORIENTATION) in range(2, 9)
    except Exception:  # damaged EXIF turns nothing
        return False


def _size_by_all_bytes(file: Path) -> tuple[int, int]:
    try:
        height, width = size_hw(file.read_bytes(), name=str(file))
    except (OSError, DataError):
        return UNREADABLE
    return width, height
