"""Drawn views against a literal reading of DETR's transforms."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qdet.data.augment import AugmentConfig
from qdet.data.image.sizes import detr_sizes
from qdet.data.plan.views import draw_views, evaluation_views
from qdet.errors import ConfigError

CROP = AugmentConfig(crop=True)


def detr_size(h, w, size, max_size):
    """`get_size_with_aspect_ratio`, in words: see detectors' shared size rule."""
    if max_size is not None:
        short, long = float(min(w, h)), float(max(w, h))
        if long / short * size > max_size:
            size = round(max_size * short / long)
    if (w <= h and w == size) or (h <= w and h == size):
        return h, w
    if w < h:
        return int(size * h / w), size
    return size, int(size * w / h)


@given(
    st.integers(1, 5000),
    st.integers(1, 5000),
    st.integers(1, 1400),
    st.one_of(st.none(), st.integers(1, 1500)),
)
def test_sizes_are_those_of_detr(h, w, size, longest):
    got = detr_sizes(np.array([[h, w]]), np.array([size]), longest)[0]
    assert tuple(got) == tuple(max(side, 1) for side in detr_size(h, w, size, longest))


def test_windows_lie_within_their_image_and_have_drawn_sides():
    sizes = np.random.default_rng(0).integers(50, 900, (4000, 2))
    views = draw_views(sizes, CROP, seed=3, epoch=5)
    top, left, h, w = views.window_tlhw[views.cropped].T
    first_h, first_w = views.resized_hw[views.cropped].T
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + h <= first_h).all()
    assert (left + w <= first_w).all()
    assert (np.minimum(h, w) >= 384).all()
    assert (np.maximum(h, w) <= 600).all()
    assert (top + h == first_h).any()  # both ends are drawn
    assert (top == 0).any()
    assert set(np.unique(np.minimum(first_h, first_w))) == {400, 500, 600}
    assert abs(views.cropped.mean() - 0.5) < 0.03
    assert abs(views.flip.mean() - 0.5) < 0.03
    short = views.final_hw[~views.cropped].min(axis=1)
    assert set(CROP.sizes) <= set(short.tolist())


def test_an_epoch_is_drawn_again_and_the_next_one_differs():
    sizes = np.full((64, 2), 500)
    first, again, later = (draw_views(sizes, CROP, seed=1, epoch=e) for e in (0, 0, 1))
    np.testing.assert_array_equal(first.final_hw, again.final_hw)
    assert (first.final_hw != later.final_hw).any()
    assert (draw_views(sizes, CROP, seed=2, epoch=0).final_hw != first.final_hw).any()


def test_evaluation_takes_the_largest_size_and_nothing_random():
    views = evaluation_views(np.array([[480, 640], [2000, 500]]), CROP)
    assert views.final_hw.tolist() == [[800, 1066], [1332, 333]]
    assert not views.flip.any()
    assert evaluation_views(np.array([[480, 640]]), AugmentConfig(eval_size=240)).final_hw.tolist() == [
        [240, 320]
    ]


@pytest.mark.parametrize(
    ("wrong", "flag"),
    [
        ({"sizes": ()}, "sizes"),
        ({"sizes": (800,), "max_size": 700}, "max-size"),
        ({"flip": 1.5}, "flip"),
        ({"crop_range": (600, 384)}, "crop-range"),
        ({"pad_multiple": 0}, "pad-multiple"),
        ({"eval_size": 5000}, "eval-size"),
    ],
)
def test_impossible_settings_are_refused_by_their_flag(wrong, flag):
    with pytest.raises(ConfigError, match=f"--data.augment.{flag}"):
        AugmentConfig(**wrong)
