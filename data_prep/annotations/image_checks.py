"""Check an image file against its annotation.

The header gives format and size. All of its data is looked through unless that is switched off, for training
stops at a damaged image; a truncated file, which lacks its end marker, is found in any case.
"""

from dataclasses import dataclass
from pathlib import Path

from data_prep.annotations.coco import Image
from qdet.data.image.judge import check_size, judge
from qdet.data.image.orientation import orientation_of
from qdet.errors import DataError

_ENDS = {"jpg": b"\xff\xd9", "png": b"IEND\xaeB`\x82"}


@dataclass(frozen=True, kw_only=True)
class Checks:
    """How thoroughly images are checked."""

    max_pixels: int
    """Size of the largest image accepted."""
    decode: bool
    """Look through all data of every image, not only of those without end marker."""


@dataclass(frozen=True)
class Checked:
    """An image file that can be used."""

    data: bytes
    kind: str
    """File extension of its format, such as "jpg"."""
    turned: bool
    """EXIF asks viewers to turn or mirror it."""


def check_image(folder: Path, image: Image, checks: Checks) -> Checked:
    """Read an image below `folder` and check it.

    Raises:
        DataError: The file is missing, damaged, too large or of another size than annotated.
    """
    path = folder / image.file_name
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} (image {image.id}) cannot be read: {error.strerror or error}") from error
    name = f"{path} (image {image.id})"
    judged = judge(data, name=name, max_pixels=checks.max_pixels, flag="--max-pixels")
    said_hw = image.height, image.width
    check_size(data, judged.size_hw, said_hw, name=name, source="the annotation file says")
    if checks.decode or not data.endswith(_ENDS.get(judged.kind, b"\0no end")):
        judge(data, name=name, max_pixels=checks.max_pixels, flag="--max-pixels", pixels=True)
    return Checked(data, judged.kind, orientation_of(data, name=name) != 1)
