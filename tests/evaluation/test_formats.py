"""Numbers as people read them."""

import math

from qdet.evaluation.formats import count, interval, percent, score, signed


def test_percent_has_a_dash_for_nothing_and_no_negative_zero():
    assert percent(0.12345) == "12.3"
    assert percent(0.12345, 3) == "12.345"
    assert percent(None) == percent(math.nan) == "-"
    assert percent(-0.0001) == "0.0"


def test_differences_have_a_sign():
    assert (signed(0.05), signed(-0.05), signed(-0.00001), signed(math.nan)) == ("+5.0", "-5.0", "+0.0", "-")
    assert interval(-0.0001, 0.05) == "0.0 to 5.0"
    assert interval(math.nan, math.nan) == "-"


def test_one_is_singular():
    assert (count(1, "image"), count(0, "image"), count(1200, "class", "classes")) == (
        "1 image", "0 images", "1,200 classes",
    )  # fmt: skip
    assert score(0.5) == "0.50"
