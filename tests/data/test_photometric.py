"""Distorted colours against a literal pixel-by-pixel reading with `colorsys`."""

import colorsys

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from qdet.data.image import photometric
from qdet.data.image.photometric import Distortion, distort, drawn


def literal(pixel, d):
    """SSD's steps for one RGB pixel, between 0 and 255."""

    def clip(values):
        return [min(max(v, 0.0), 255.0) for v in values]

    values = [v + d.brightness for v in pixel]
    if d.contrast_first:
        values = [v * d.contrast for v in values]
    values = clip(values)
    if (d.saturation, d.hue) != (1, 0):
        h, s, v = colorsys.rgb_to_hsv(*(x / 255 for x in values))
        turned = (h * 360 + d.hue) % 360
        values = [255 * x for x in colorsys.hsv_to_rgb(turned / 360, min(s * d.saturation, 1.0), v)]
    if not d.contrast_first:
        values = [v * d.contrast for v in values]
    return [clip(values)[c] for c in d.channels]


@settings(deadline=None)
@given(arrays(np.float64, photometric.CHANCES, elements=st.floats(0, 0.999)), st.integers(0, 2**32))
def test_every_pixel_is_what_a_literal_reading_gives(chance, seed):
    distortion = drawn(chance)
    image = np.random.default_rng(seed).integers(0, 256, (4, 6, 3)).astype(np.uint8)
    expected = [[literal(pixel, distortion) for pixel in row] for row in image.tolist()]
    distort(image, distortion)
    assert abs(image - np.array(expected)).max() <= 0.51  # rounded once, and OpenCV computes in fp32


def test_zero_distortion_changes_nothing_and_only_the_given_window_is_changed():
    larger = np.full((9, 9, 3), 100, dtype=np.uint8)
    distort(larger[:4, :5], Distortion())
    assert (larger == 100).all()
    distort(larger[:4, :5], Distortion(brightness=20.0))
    assert (larger[:4, :5] == 120).all()
    larger[:4, :5] = 100
    assert (larger == 100).all()


def test_each_distortion_is_applied_half_of_the_time_over_ssds_ranges():
    chance = np.random.default_rng(0).random((4000, photometric.CHANCES))
    many = [drawn(row) for row in chance]
    for name, same, low, high in (
        ("brightness", 0, -32, 32),
        ("contrast", 1, 0.5, 1.5),
        ("saturation", 1, 0.5, 1.5),
        ("hue", 0, -18, 18),
    ):
        changed = np.array([getattr(d, name) for d in many if getattr(d, name) != same])
        assert abs(len(changed) / 4000 - 0.5) < 0.03
        assert low <= changed.min() < low + (high - low) / 100
        assert high - (high - low) / 100 < changed.max() <= high
    assert abs(np.mean([d.contrast_first for d in many]) - 0.5) < 0.03
    orders = [d.channels for d in many]
    assert len(set(orders)) == 6
    # Half of them are drawn, and one of the six orders is the usual one.
    assert abs(orders.count((0, 1, 2)) / 4000 - (0.5 + 0.5 / 6)) < 0.03
