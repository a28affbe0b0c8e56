"""How one image is seen: the sizes, the window, the other images and the colours that were drawn for it.

hw height and width   tlhw top, left, height and width of a window   tl top and left
"""

from dataclasses import dataclass

from qdet.data.image.photometric import Distortion
from qdet.data.image.resize import HW, Resize


@dataclass(frozen=True)
class View:
    """One image's way: resize to `resized_hw`, cut `window_tlhw` out, resize that to `final_hw`, mirror."""

    resized_hw: HW
    window_tlhw: tuple[int, int, int, int] | None
    """In pixels of the resized image; None where nothing is cut."""
    final_hw: HW
    flip: bool
    resize: Resize = "pillow"
    mosaic: "Canvas | None" = None
    """What goes the way in place of the image alone."""
    mixup: "Canvas | None" = None
    """What the final image is blended with, half and half."""
    distortion: Distortion | None = None
    """What becomes of the colours in the end."""


@dataclass(frozen=True)
class Piece:
    """A sample of the dataset, seen in its own way, at a place of a larger image."""

    row: int
    view: View
    at_tl: tuple[int, int]


@dataclass(frozen=True)
class Canvas:
    """Several samples on grey."""

    size_hw: HW
    pieces: tuple[Piece, ...]
