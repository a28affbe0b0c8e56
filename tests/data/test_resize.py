"""Resizing against Pillow itself, for every mixture of growing and shrinking sides."""

import cv2
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from qdet.data.image.resize import resize
from qdet.data.image.view import View, view_image

side = st.integers(1, 160)


def picture(seed, h, w):
    """Noise, the hardest case: real images differ less."""
    return np.random.default_rng(seed).integers(0, 256, (h, w, 3)).astype(np.uint8)


def pillow(image, h, w):
    return np.asarray(Image.fromarray(image).resize((w, h), Image.Resampling.BILINEAR))


def apart(one, other):
    return int(abs(one.astype(int) - other).max())


@settings(deadline=None)
@given(st.integers(0, 2**32), side, side, side, side)
@example(0, 150, 150, 120, 120)  # one value of 43,200 is two apart
@example(64, 125, 125, 100, 100)  # four of 30,000
def test_every_resize_is_pillows_to_one_of_255(seed, h, w, new_h, new_w):
    """At a ratio of 4 to 5 both passes round at ties: a value in 5,000 may then be two apart."""
    image = picture(seed, h, w)
    found, wanted = resize(image, (new_h, new_w)), pillow(image, new_h, new_w)
    assert apart(found, wanted) <= 2
    assert (abs(found.astype(int) - wanted) > 1).sum() <= 1 + wanted.size // 5000


@pytest.mark.parametrize("size", [(800, 600), (333, 700), (100, 130), (301, 401)])
def test_the_exact_filter_hardly_differs_from_pillow(size):
    image = picture(7, 300, 400)
    wanted = pillow(image, *size)
    exact, quick = (resize(image, size, filter).astype(int) for filter in ("pillow-exact", "pillow"))
    assert abs(exact - wanted).mean() < 0.05
    assert abs(exact - wanted).max() <= 2
    if size[0] > 300 and size[1] > 400:
        assert abs(quick - wanted).mean() > 4 * abs(exact - wanted).mean()


@settings(deadline=None)
@given(st.data())
def test_two_resizes_with_a_window_between_are_pillows_to_two_of_255(data):
    h, w, mid_h, mid_w, new_h, new_w = (data.draw(side) for _ in range(6))
    top, left = data.draw(st.integers(0, mid_h - 1)), data.draw(st.integers(0, mid_w - 1))
    height, width = data.draw(st.integers(1, mid_h - top)), data.draw(st.integers(1, mid_w - left))
    flip = data.draw(st.booleans())
    image = picture(data.draw(st.integers(0, 2**32)), h, w)
    view = View((mid_h, mid_w), (top, left, height, width), (new_h, new_w), flip)
    literal = pillow(image, mid_h, mid_w)[top : top + height, left : left + width]
    literal = pillow(np.ascontiguousarray(literal), new_h, new_w)
    literal = literal[:, ::-1] if flip else literal
    assert apart(view_image(image, view), literal) <= 2


@pytest.mark.parametrize("filter", ["pillow", "pillow-exact", "opencv"])
@pytest.mark.parametrize("size", [(20, 30), (50, 70), (50, 30), (33, 44)])
def test_a_place_in_a_larger_image_gets_the_same_values_and_nothing_around_it_changes(filter, size):
    image = picture(0, 33, 44)
    larger = np.full((90, 80, 3), 7, dtype=np.uint8)
    place = larger[5 : 5 + size[0], 3 : 3 + size[1]]
    resize(image, size, filter, out=place)
    np.testing.assert_array_equal(place, resize(image, size, filter))
    place[:] = 7
    assert (larger == 7).all()


def test_opencvs_filter_is_another_one_where_images_shrink():
    image = picture(1, 120, 120)
    small = resize(image, (30, 30), "opencv")
    np.testing.assert_array_equal(small, cv2.resize(image, (30, 30)))
    assert apart(small, resize(image, (30, 30))) > 20
