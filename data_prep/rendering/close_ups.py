"""Close-ups: images tiled with crops of single objects, scaled to about the same size.

Crops are rotated, mirrored, stretched and recoloured: shapes stay recognisable, and a network that sees an
object many times cannot memorise its colours.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Float32, Int64, UInt8
from numpy.random import Generator

from data_prep.rendering.shapes import Scene


def cut_close_ups(
    rng: Generator, scenes: Sequence[Scene], count: int, *, tile: int, size: int
) -> tuple[list[UInt8[np.ndarray, "S S 3"]], Int64[np.ndarray, "count rows columns"]]:
    """Tile `count` images with random objects of `scenes`; return them and each tile's class index."""
    rows = size // tile
    images = np.empty((count, rows, tile, rows, tile, 3), np.uint8)
    names = np.empty((count, rows, rows), np.int64)
    for place in np.ndindex(count, rows, rows):
        scene = scenes[int(rng.integers(len(scenes)))]
        while not len(scene.labels):
            scene = scenes[int(rng.integers(len(scenes)))]
        chosen = int(rng.integers(len(scene.labels)))
        image, row, column = place
        images[image, row, :, column] = _crop(rng, scene.image, scene.boxes_xyxy[chosen], tile)
        names[place] = scene.labels[chosen]
    return list(images.reshape(count, size, size, 3)), names


def _crop(
    rng: Generator, image: UInt8[np.ndarray, "S S 3"], box_xyxy: Float32[np.ndarray, "4"], tile: int
) -> UInt8[np.ndarray, "tile tile 3"]:
    """Crop the square around a box; rotate, mirror and stretch it, permute and invert its channels."""
    corner, opposite = box_xyxy[:2], box_xyxy[2:]
    scale = tile / ((opposite - corner).max() * rng.uniform(1.0, 1.5))
    angle, stretch = rng.uniform(0, 2 * np.pi), np.exp(rng.uniform(-0.2, 0.2))
    cos, sin = np.cos(angle), np.sin(angle)
    turn = np.array([[cos, -sin], [sin, cos]]) @ np.diag([stretch * rng.choice([-1, 1]), 1 / stretch])
    matrix = scale * turn
    # Pixel centres are at integers in OpenCV, at halves in boxes.
    shift = tile / 2 - 0.5 - matrix @ ((corner + opposite) / 2 - 0.5)
    crop = cv2.warpAffine(
        image,
        np.column_stack([matrix, shift]),
        (tile, tile),
        flags=cv2.INTER_AREA,
        borderMode=cv2.BORDER_REFLECT,
    )
    inverted = rng.choice(np.array([0, 255], np.uint8), 3)
    return crop[..., rng.permutation(3)] ^ inverted
