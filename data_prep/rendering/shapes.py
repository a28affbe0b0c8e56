"""Render scenes: textured, partly occluded shapes on cluttered backgrounds, with boxes and masks.

`render` is a pure function of (seed, stream, index, size). Streams are separate branches of the seed, so
that images for pre-training, training, tuning and validation never coincide.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import cv2
import numpy as np
from jaxtyping import Bool, Float32, Int8, Int64, UInt8
from numpy.random import Generator

Stream = Literal["train", "val", "pretrain", "tune"]
CLASSES = ("circle", "triangle", "square", "star", "ring", "cross")
SMALLEST, LARGEST = 14 / 128, 92 / 128  # sides, relative to the image
MOST_OBJECTS = 6
LEAST_VISIBLE = 0.55
LEAST_CONTRAST = 70  # in the channel that differs most, of 255
SHIFT = 4  # fractional bits of the vertices passed to OpenCV


@dataclass(frozen=True)
class Scene:
    """An image and its visible objects."""

    image: UInt8[np.ndarray, "S S 3"]
    """RGB."""
    boxes_xyxy: Float32[np.ndarray, "T 4"]
    """Tight box of each object's visible pixels, in pixels."""
    labels: Int64[np.ndarray, " T"]
    """Indices into `CLASSES`."""
    owners: Int8[np.ndarray, "S S"]
    """Index of the object that each pixel shows; -1 for background."""


def render(seed: int, stream: Stream, index: int, size: int = 128) -> Scene:
    """Draw image `index` of `stream`; the same arguments always give the same image."""
    rng = np.random.default_rng([seed, get_args(Stream).index(stream), index])
    canvas = _paint_background(rng, size)
    owners = np.full((size, size), -1, np.int8)
    labels: list[int] = []
    whole: list[int] = []  # unoccluded pixels of each object
    for _ in range(rng.integers(0, MOST_OBJECTS + 1)):
        label, outline = int(rng.integers(len(CLASSES))), _draw_placement(rng, size)
        contours = [outline(c) for c in _CONTOURS[CLASSES[label]](rng)]
        stroke = int(rng.integers(1, 3)) if rng.random() < 0.35 else 0
        alpha, edge = _rasterise(contours, stroke, size)
        covered = alpha > 0.5
        area = _measure_unclipped(contours, stroke, size)
        if not _stays_visible(covered, area, owners, whole):
            continue
        _paint(rng, canvas, alpha, edge)
        owners[covered] = len(labels)
        labels.append(label)
        whole.append(area)
    image = _simulate_camera(rng, canvas)
    return Scene(image, _bound_visible(owners, len(labels)), np.array(labels, np.int64), owners)


def _stays_visible(
    covered: Bool[np.ndarray, "S S"], area: int, owners: Int8[np.ndarray, "S S"], whole: list[int]
) -> bool:
    """Whether enough of the new object is in the image and enough of every older one stays visible."""
    if covered.sum() < LEAST_VISIBLE * area:
        return False
    left = np.bincount(owners[~covered] + 1, minlength=len(whole) + 1)[1:]
    return bool(np.all(left >= LEAST_VISIBLE * np.array(whole)))


def _bound_visible(owners: Int8[np.ndarray, "S S"], objects: int) -> Float32[np.ndarray, "T 4"]:
    boxes = np.zeros((objects, 4), np.float32)
    for i in range(objects):
        x, y, width, height = cv2.boundingRect((owners == i).view(np.uint8))
        boxes[i] = x, y, x + width, y + height
    return boxes


# Contours: closed polygons in a unit square around the origin.

Contour = Float32[np.ndarray, "V 2"]


def _polygon(corners: int, *, turn: float = 0.0, radii: tuple[float, ...] = (1.0,)) -> Contour:
    angle = turn + np.arange(corners) * (2 * np.pi / corners)
    radius = np.resize(np.array(radii), corners)
    return (0.5 * np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1)).astype(np.float32)


def _ring(rng: Generator) -> list[Contour]:
    return [_polygon(40), _polygon(40) * np.float32(rng.uniform(0.45, 0.7))]


def _star(rng: Generator) -> list[Contour]:
    return [_polygon(10, turn=-np.pi / 2, radii=(1.0, rng.uniform(0.38, 0.5)))]


def _cross(rng: Generator) -> list[Contour]:
    a, b = rng.uniform(0.13, 0.2), 0.5
    corners = [
        (-a, -b),
        (a, -b),
        (a, -a),
        (b, -a),
        (b, a),
        (a, a),
        (a, b),
        (-a, b),
        (-a, a),
        (-b, a),
        (-b, -a),
    ]
    return [np.array([*corners, (-a, -a)], np.float32)]


_CONTOURS: dict[str, Callable[[Generator], list[Contour]]] = {
    "circle": lambda _: [_polygon(40)],
    "triangle": lambda _: [_polygon(3, turn=-np.pi / 2)],
    "square": lambda _: [_polygon(4, turn=np.pi / 4) * np.float32(2**0.5)],
    "star": _star,
    "ring": _ring,
    "cross": _cross,
}


def _draw_placement(rng: Generator, size: int) -> Callable[[Contour], Contour]:
    """Draw position, size, stretch and rotation; return the map from contours to pixels."""
    side = size * np.exp(rng.uniform(np.log(SMALLEST), np.log(LARGEST)))
    stretch = np.exp(rng.uniform(-0.3, 0.3))
    angle = rng.uniform(0, 2 * np.pi) if rng.random() < 0.5 else rng.normal(0, 0.15)
    cos, sin = np.cos(angle), np.sin(angle)
    matrix = side * np.array([[cos, -sin], [sin, cos]]) @ np.diag([stretch, 1 / stretch])
    centre = rng.uniform(0.25 * side, size - 0.25 * side, 2)
    return lambda contour: (contour @ matrix.T + centre).astype(np.float32)


def _rasterise(
    contours: list[Contour], stroke: int, size: int
) -> tuple[Float32[np.ndarray, "S S"], Float32[np.ndarray, "S S"]]:
    """Rasterise with antialiasing; return coverage (0 to 1) of the shape and of its outline."""
    points = [np.round((c - 0.5) * 2**SHIFT).astype(np.int32) for c in contours]
    fill, edge = np.zeros((size, size), np.uint8), np.zeros((size, size), np.uint8)
    cv2.fillPoly(fill, points, 255, cv2.LINE_AA, SHIFT)  # even-odd: an inner contour is a hole
    if stroke:
        cv2.polylines(edge, points, True, 255, stroke, cv2.LINE_AA, SHIFT)
    scale = np.float32(1 / 255)
    return np.maximum(fill, edge) * scale, edge * scale


def _measure_unclipped(contours: list[Contour], stroke: int, size: int) -> int:
    """Return the pixels that the shape would cover in an image large enough to hold it."""
    margin = np.float32(size // 2)
    return int((_rasterise([c + margin for c in contours], stroke, 2 * size)[0] > 0.5).sum())


# Colour and texture.


def _paint_texture(
    rng: Generator, size: int, first: Float32[np.ndarray, "3"], second: Float32[np.ndarray, "3"]
) -> Float32[np.ndarray, "S S 3"]:
    """Fill a square with two colours blended along a random pattern."""
    kind = rng.integers(5)
    x, y = np.arange(size, dtype=np.float32)[None, :], np.arange(size, dtype=np.float32)[:, None]
    angle, period = rng.uniform(0, np.pi), size / 128 * rng.uniform(5, 24)
    across = (x * np.float32(np.cos(angle)) + y * np.float32(np.sin(angle))) * np.float32(2 * np.pi / period)
    along = (y * np.float32(np.cos(angle)) - x * np.float32(np.sin(angle))) * np.float32(2 * np.pi / period)
    if kind == 0:
        mix = np.full((size, size), rng.random(), np.float32)
    elif kind == 1:
        mix = np.clip(1.5 * np.sin(across) + 0.5, 0, 1)
    elif kind == 2:
        mix = np.clip(3 * np.sin(across) * np.sin(along) + 0.5, 0, 1)
    elif kind == 3:
        cells = int(rng.integers(4, 17))
        coarse = rng.random((cells, cells), np.float32)
        mix = np.clip(cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC), 0, 1)
    else:
        mix = np.clip(across * np.float32(period / (2 * np.pi * size)) % 1, 0, 1)
    return first + (second - first) * mix[..., None].astype(np.float32)


def _paint_background(rng: Generator, size: int) -> Float32[np.ndarray, "S S 3"]:
    """Paint a texture, up to two soft gradients, and distracting strokes."""
    first = rng.uniform(0, 255, 3).astype(np.float32)
    second = np.clip(first + rng.uniform(-90, 90, 3), 0, 255).astype(np.float32)
    canvas = _paint_texture(rng, size, first, second)
    ramp = np.linspace(-1, 1, size, dtype=np.float32)
    for _ in range(rng.integers(0, 3)):
        slope = rng.uniform(-35, 35, (2, 3)).astype(np.float32)
        canvas += ramp[:, None, None] * slope[0] + ramp[None, :, None] * slope[1]
    for _ in range(rng.integers(1, 7)):
        colour = rng.uniform(0, 255, 3).tolist()
        start, end = (rng.uniform(0, size, (2, 2)) * 2**SHIFT).astype(int)
        width = int(rng.integers(1, 4))
        if rng.random() < 0.6:
            end = start + ((end - start) * rng.uniform(0.2, 0.8)).astype(int)
            cv2.line(canvas, start.tolist(), end.tolist(), colour, width, cv2.LINE_8, SHIFT)
        else:
            axes = (rng.uniform(0.05, 0.3, 2) * size).astype(int).tolist()
            sweep = rng.uniform(40, 160)
            cv2.ellipse(canvas, (start >> SHIFT).tolist(), axes, rng.uniform(0, 360), 0, sweep, colour, width)
    return canvas


def _draw_contrasting(
    rng: Generator, beneath: Float32[np.ndarray, "3"], near: Float32[np.ndarray, "3"] | None = None
) -> Float32[np.ndarray, "3"]:
    """Draw a colour that contrasts with `beneath` and, if given, is close to `near`."""
    for _ in range(50):
        drawn = rng.uniform(0, 255, 3) if near is None else np.clip(near + rng.uniform(-110, 110, 3), 0, 255)
        if np.abs(drawn - beneath).max() >= LEAST_CONTRAST:
            return drawn.astype(np.float32)
    return np.where(beneath < 128, 255, 0).astype(np.float32)


def _paint(
    rng: Generator,
    canvas: Float32[np.ndarray, "S S 3"],
    alpha: Float32[np.ndarray, "S S"],
    edge: Float32[np.ndarray, "S S"],
) -> None:
    """Blend a textured object into `canvas`, in colours that contrast with what it covers."""
    x, y, width, height = cv2.boundingRect((alpha > 0).view(np.uint8))
    window = np.s_[y : y + height, x : x + width]
    beneath = np.average(canvas[window].reshape(-1, 3), axis=0, weights=alpha[window].ravel())
    first = _draw_contrasting(rng, beneath)
    fill = _paint_texture(rng, max(width, height), first, _draw_contrasting(rng, beneath, first))[
        :height, :width
    ]
    line = edge[window][..., None]
    fill += line * (_draw_contrasting(rng, first) - fill)
    canvas[window] += alpha[window][..., None] * (fill - canvas[window])


def _simulate_camera(rng: Generator, canvas: Float32[np.ndarray, "S S 3"]) -> UInt8[np.ndarray, "S S 3"]:
    """Blur some images, add noise to all, and round to bytes."""
    if rng.random() < 0.3:
        canvas = cv2.GaussianBlur(canvas, (0, 0), rng.uniform(0.4, 1.1))
    canvas = canvas + rng.standard_normal(canvas.shape, np.float32) * np.float32(rng.uniform(1, 9))
    return np.clip(np.round(canvas), 0, 255).astype(np.uint8)
