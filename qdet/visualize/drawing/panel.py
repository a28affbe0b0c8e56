"""A panel: an image, dimmed, with marks on it in coordinates of the image's own pixels.

Everything is drawn three times as large and then reduced, which leaves smooth lines and dots on small images.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw

from qdet.visualize.drawing.colours import WHITE, Colour

FINER = 3
FARTHEST = 30_000.0
"""Pixels of the enlarged image; the boxes of detectors are not bounded."""
_EDGE = (0, 0, 0, 150)


class Panel:
    """One image of a page; sizes of marks are in pixels of the finished panel."""

    def __init__(
        self,
        image: UInt8[np.ndarray, "H W 3"],
        *,
        size: int,
        grey: float = 0.0,
        dark: float = 0.0,
    ) -> None:
        """Enlarge or reduce `image` to a longer side of `size`; `grey` and `dark`, from 0 to 1, dim it."""
        height, width = image.shape[:2]
        scale = size / max(height, width)
        self.width, self.height = max(1, round(width * scale)), max(1, round(height * scale))
        self._scale = np.array((self.width / width, self.height / height)) * FINER
        fine = (self.width * FINER, self.height * FINER)
        enlarges = fine[0] >= width
        shown = Image.fromarray(_dim(image, grey, dark))
        filter_ = Image.Resampling.BICUBIC if enlarges else Image.Resampling.LANCZOS
        self._image = shown.resize(fine, filter_).convert("RGBA")

    def finish(self) -> UInt8[np.ndarray, "h w 3"]:
        """Return the finished panel."""
        reduced = self._image.convert("RGB").resize((self.width, self.height), Image.Resampling.BOX)
        return np.asarray(reduced)

    @property
    def pixels_xy(self) -> Float[np.ndarray, "h w 2"]:
        """Coordinates in the image of the centres of the finished panel's pixels."""
        x = (np.arange(self.width) + 0.5) * FINER / self._scale[0]
        y = (np.arange(self.height) + 0.5) * FINER / self._scale[1]
        return np.stack(np.meshgrid(x, y), axis=-1)

    def box(
        self, box_xyxy: Float[np.ndarray, "4"], ink: Colour, *, width: float = 2.0, dashed: bool = False
    ) -> None:
        """Draw a frame."""
        left, top, right, bottom = box_xyxy
        corners = np.array([(left, top), (right, top), (right, bottom), (left, bottom), (left, top)])
        self.line(corners, ink, width=width, dashed=dashed)

    def line(
        self,
        points_xy: Float[np.ndarray, "n 2"],
        ink: Colour,
        *,
        width: float = 2.0,
        dashed: bool = False,
        edged: bool = True,
    ) -> None:
        """Draw a line through points, or dashes along it; a dark edge makes it seen on anything."""
        with _Overlay(self._image) as pen:
            fine = self._place(points_xy)
            parts = _dashes(fine, 5.0 * FINER, 3.5 * FINER) if dashed else [fine]
            layers = ((width + 1.6, _EDGE), (width, (*ink, 255)))
            for thickness, colour in layers if edged else layers[1:]:
                for part in parts:
                    line = [tuple(p) for p in part.tolist()]
                    pen.line(line, fill=colour, width=max(1, round(thickness * FINER)), joint="curve")

    def dots(
        self,
        points_xy: Float[np.ndarray, "n 2"],
        inks: Sequence[Colour],
        radii: Float[np.ndarray, " n"] | Sequence[float],
        *,
        alpha: float = 1.0,
    ) -> None:
        """Draw dots, the first at the bottom."""
        with _Overlay(self._image) as pen:
            rows = zip(self._place(points_xy).tolist(), inks, radii, strict=True)
            for (x, y), ink, radius in rows:
                r = radius * FINER
                pen.ellipse((x - r - 2, y - r - 2, x + r + 2, y + r + 2), fill=(0, 0, 0, round(170 * alpha)))
                pen.ellipse((x - r, y - r, x + r, y + r), fill=(*ink, round(255 * alpha)))

    def cross(self, point_xy: Float[np.ndarray, "2"], ink: Colour = WHITE, *, arm: float = 5.0) -> None:
        """Draw a small upright cross."""
        away = arm * FINER / self._scale
        for end in (np.array((away[0], 0)), np.array((0, away[1]))):
            self.line(np.stack((point_xy - end, point_xy + end)), ink, width=1.6)

    def ellipse(
        self,
        center_xy: Float[np.ndarray, "2"],
        half_wh: Float[np.ndarray, "2"],
        ink: Colour,
        *,
        width: float = 2.0,
    ) -> None:
        """Draw the outline of an upright ellipse."""
        angles = np.linspace(0, 2 * np.pi, 91)
        around = np.stack((np.cos(angles), np.sin(angles)), axis=-1) * half_wh
        self.line(center_xy + around, ink, width=width)

    def _place(self, points_xy: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 2"]:
        """Return where points lie on the enlarged image; those far outside are moved nearer to it."""
        with np.errstate(all="ignore"):
            return np.nan_to_num(points_xy * self._scale).clip(-FARTHEST, FARTHEST)

    def cover(self, colours: UInt8[np.ndarray, "_ _ 3"], alpha: Float[np.ndarray, "_ _"]) -> None:
        """Lay a picture of the whole image over it, as opaque as `alpha` says, from 0 to 1."""
        layer = np.dstack((colours, np.round(255 * np.clip(alpha, 0, 1)).astype(np.uint8)))
        fine = Image.fromarray(layer, "RGBA").resize(self._image.size, Image.Resampling.BICUBIC)
        self._image.alpha_composite(fine)


class _Overlay:
    """A transparent layer to draw on, laid over an image at the end: RGBA inks then blend."""

    def __init__(self, image: Image.Image) -> None:
        self._image, self._layer = image, Image.new("RGBA", image.size, (0, 0, 0, 0))

    def __enter__(self) -> ImageDraw.ImageDraw:
        return ImageDraw.Draw(self._layer)

    def __exit__(self, *_: object) -> None:
        self._image.alpha_composite(self._layer)


def _dim(image: UInt8[np.ndarray, "H W 3"], grey: float, dark: float) -> UInt8[np.ndarray, "H W 3"]:
    """Take away colour, then light."""
    light = image @ np.array((0.299, 0.587, 0.114))
    mixed = image * (1 - grey) + light[..., None] * grey
    return np.round(mixed * (1 - dark)).astype(np.uint8)


def _dashes(points: Float[np.ndarray, "n 2"], dash: float, gap: float) -> list[Float[np.ndarray, "m 2"]]:
    """Cut each straight part of a line into dashes, each part beginning and ending with one."""
    dashes = []
    for start, end in pairwise(points):
        length = float(np.hypot(*(end - start)))
        count = max(1, round((length + gap) / (dash + gap)))
        scale = length / max(count * dash + (count - 1) * gap, 1e-9)
        for k in range(count):
            low = k * (dash + gap) * scale
            shares = np.array((low, min(low + dash * scale, length))) / max(length, 1e-9)
            dashes.append(start + shares[:, None] * (end - start))
    return dashes
