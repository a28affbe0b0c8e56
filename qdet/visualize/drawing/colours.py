"""Colours that are told apart with any colour vision, and in print.

Okabe and Ito's palette (https://jfly.uni-koeln.de/color) for kinds; for amounts matplotlib's viridis and
magma, each by ten of its colours.
"""

import numpy as np
from jaxtyping import Float, UInt8

Colour = tuple[int, int, int]

ORANGE: Colour = (230, 159, 0)
SKY: Colour = (86, 180, 233)
GREEN: Colour = (0, 158, 115)
YELLOW: Colour = (240, 228, 66)
VERMILION: Colour = (213, 94, 0)
PINK: Colour = (204, 121, 167)
WHITE: Colour = (255, 255, 255)
KINDS: tuple[Colour, ...] = (SKY, PINK, YELLOW, GREEN, VERMILION, (0, 114, 178), ORANGE, (170, 170, 170))
"""One colour after the other for heads; they repeat after eight."""

VIRIDIS = np.array(
    [
        (68, 1, 84),
        (72, 40, 120),
        (62, 73, 137),
        (49, 104, 142),
        (38, 130, 142),
        (31, 158, 137),
        (53, 183, 121),
        (110, 206, 88),
        (181, 222, 43),
        (253, 231, 37),
    ],
    dtype=np.float64,
)
"""At 0, 1/9, ... 1."""
MAGMA = np.array(
    [
        (0, 0, 4),
        (24, 15, 61),
        (68, 15, 118),
        (114, 31, 129),
        (158, 47, 127),
        (205, 64, 113),
        (241, 96, 93),
        (253, 150, 104),
        (254, 202, 141),
        (252, 253, 191),
    ],
    dtype=np.float64,
)
"""At 0, 1/9, ... 1."""


def colours_at(values: Float[np.ndarray, "*n"], scale: Float[np.ndarray, "k 3"]) -> UInt8[np.ndarray, "*n 3"]:
    """Return the colours of values in [0, 1], clipped to it, on a scale of evenly spaced colours."""
    at = np.clip(values, 0, 1) * (len(scale) - 1)
    low = np.minimum(at.astype(int), len(scale) - 2)
    part = (at - low)[..., None]
    return np.round(scale[low] * (1 - part) + scale[low + 1] * part).astype(np.uint8)


def colour_at(value: float, scale: Float[np.ndarray, "k 3"]) -> Colour:
    """Return the colour of one value."""
    red, green, blue = colours_at(np.array(value), scale).tolist()
    return red, green, blue


def ramp(count: int, *, low: float = 0.0, high: float = 1.0) -> list[Colour]:
    """Return `count` colours along viridis, evenly spaced from `low` to `high`."""
    return [colour_at(value, VIRIDIS) for value in np.linspace(low, high, count)]
