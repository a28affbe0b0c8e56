"""Photometric distortion: brightness, contrast, saturation, hue and the order of channels, changed at random.

SSD (Liu et al., ECCV 2016, section 2.2, after Howard 2013), with the ranges of the authors' code, which
mmdetection's `PhotoMetricDistortion` shares. Each part happens with probability 1/2: brightness gets an
offset, contrast and saturation a factor, hue an angle; contrast changes before or after saturation and hue.
In between, values are kept between 0 and 255; they are rounded once, at the end.
"""

from dataclasses import dataclass
from itertools import permutations

import cv2
import numpy as np
from jaxtyping import Float64, UInt8

BRIGHTNESS = 32.0
"""Largest offset, of 255."""
CONTRAST = SATURATION = (0.5, 1.5)
"""Ranges of the factors."""
HUE = 18.0
"""Largest angle, in degrees."""
CHANCES = 11
"""Random numbers that a distortion is drawn from."""

_ORDERS = tuple(permutations(range(3)))


@dataclass(frozen=True)
class Distortion:
    """What becomes of an image's colours; the defaults change nothing."""

    brightness: float = 0.0
    contrast: float = 1.0
    contrast_first: bool = True
    saturation: float = 1.0
    hue: float = 0.0
    channels: tuple[int, ...] = (0, 1, 2)


def drawn(chance: Float64[np.ndarray, " 11"]) -> Distortion:
    """Make a distortion of numbers drawn evenly from [0, 1)."""
    happens = chance[:5] < 0.5

    def between(low: float, high: float, number: float) -> float:
        return float(low + (high - low) * number)

    return Distortion(
        brightness=between(-BRIGHTNESS, BRIGHTNESS, chance[5]) if happens[0] else 0.0,
        contrast=between(*CONTRAST, chance[6]) if happens[1] else 1.0,
        contrast_first=bool(chance[7] < 0.5),
        saturation=between(*SATURATION, chance[8]) if happens[2] else 1.0,
        hue=between(-HUE, HUE, chance[9]) if happens[3] else 0.0,
        channels=_ORDERS[int(chance[10] * len(_ORDERS))] if happens[4] else (0, 1, 2),
    )


def distort(image: UInt8[np.ndarray, "h w 3"], distortion: Distortion) -> None:
    """Change the RGB values of `image` in place."""
    values = image.astype(np.float32)
    values += distortion.brightness
    if distortion.contrast_first:
        values *= distortion.contrast
    np.clip(values, 0, 255, out=values)
    if distortion.saturation != 1 or distortion.hue != 0:
        values = _saturated(values, distortion.saturation, distortion.hue)
    if not distortion.contrast_first:
        values *= distortion.contrast
    np.rint(np.clip(values, 0, 255, out=values), out=values)
    image[:] = values[..., distortion.channels]


def _saturated(values: np.ndarray, saturation: float, hue: float) -> np.ndarray:
    """Scale the saturation and turn the hue; OpenCV gives hue in degrees, saturation between 0 and 1."""
    hsv = cv2.cvtColor(values, cv2.COLOR_RGB2HSV)
    hsv[..., 0] = np.mod(hsv[..., 0] + hue, 360)
    hsv[..., 1] = np.clip(hsv[..., 1] * saturation, 0, 1)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
