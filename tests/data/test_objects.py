"""One object of an annotation: every form of its box, its area and flags; what is dropped is counted."""

import json
import math

import numpy as np
import pytest
from hotcoco import mask
from hypothesis import example, given, settings
from hypothesis import strategies as st

from qdet.data.shards.objects import Given, read_box, read_integer, read_object
from qdet.data.shards.report import Report, describe_objects, describe_report
from qdet.data.shards.segmentation import box_around

HW = (48, 64)
BOX = (8.0, 12.0, 13.0, 12.0)


@pytest.mark.parametrize(
    "given_box",
    [
        [8, 12, 13, 12],
        (8.0, 12.0, 13.0, 12.0),
        ["8", "12", "13", "12.0"],
        "[8, 12, 13, 12]",
        {"x": 8, "y": 12, "width": 13, "height": 12},
        {"x": 8, "y": 12, "w": 13, "h": 12},
        {"Left": 8, "Top": 12, "Width": 13, "Height": 12},
        {"xmin": 8, "ymin": 12, "xmax": 21, "ymax": 24},
        {"x_min": 8, "y_min": 12, "x_max": 21, "y_max": 24},
        {"x1": 8, "y1": 12, "x2": 21, "y2": 24},
        {"x0": 8, "y0": 12, "x1": 21, "y1": 24},
        {"left": 8, "top": 12, "right": 21, "bottom": 24},
    ],
    ids=repr,
)
def test_a_box_is_read_in_every_form(given_box):
    assert read_box(given_box) == BOX


@pytest.mark.parametrize(
    "given_box",
    [
        None,
        [],
        [8, 12, 13],
        [8, 12, 13, 12, 0.5],
        "1234",
        "box",
        [[8, 12], [21, 24]],
        [8, None, 13, 12],
        {"x": 8, "y": 12},
        {"cx": 8, "cy": 12, "r": 3},
        7,
        True,
        [10**400, 1, 2, 3],
    ],
    ids=repr,
)
def test_what_is_no_box_is_dropped_and_shown(given_box):
    report = Report()
    assert read_object(Given(given_box), HW, report, "a.jpg") is None
    assert report.counts == {"dropped_unreadable_box": 1}
    assert report.first["dropped_unreadable_box"][0].startswith("a.jpg ")
    assert "dropped unreadable box: 1 (first: a.jpg" in (report.close().explain_loss() or "")


@pytest.mark.parametrize(
    "polygons",
    [
        [[8, 12, 21, 12, 21, 24, 8, 24]],
        [8, 12, 21, 12, 21, 24, 8, 24],
        [[8, 12, 10, 12, 9, 24], [20, 13, 21, 14, 20, 15]],
        [[[8, 12], [21, 12], [21, 24]]],
        [[8, 12], [21, 24]],
    ],
    ids=repr,
)
def test_the_box_around_polygons(polygons):
    assert box_around(polygons) == BOX


@pytest.mark.parametrize(
    "nothing",
    [
        *(None, [], [[]], [[1, 2, 3]], ["a"], "abc", 3, {}, {"size": [4, 4]}),
        *({"size": [4, 4], "counts": counts} for counts in ([17], [16], [4, -2, 3], "~~", "é")),
        {"size": [0, 0], "counts": []},
    ],
    ids=repr,
)
def test_what_is_no_segmentation_has_no_box(nothing):
    assert box_around(nothing) is None


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 2**32 - 1), st.floats(0.01, 0.6))
def test_the_box_around_a_mask_is_that_of_its_pixels(height, width, seed, share):
    pixels = (np.random.default_rng(seed).random((height, width)) < share).astype(np.uint8)
    encoded = mask.encode(np.asfortranarray(pixels))
    text = encoded["counts"] if isinstance(encoded["counts"], str | bytes) else mask.rle_to_string(encoded)
    flat = pixels.ravel(order="F")
    edges = np.flatnonzero(np.diff(np.concatenate(([0], flat))))
    runs = np.diff(np.concatenate(([0], edges, [flat.size]))).tolist()
    ys, xs = np.nonzero(pixels)
    expected = None
    if len(xs):
        left, top = xs.min(), ys.min()
        expected = (left, top, xs.max() - left + 1, ys.max() - top + 1)
    assert box_around({"size": [height, width], "counts": runs}) == expected
    if not isinstance(text, dict):
        assert box_around({"size": [height, width], "counts": text}) == expected


def test_a_segmentation_stands_in_for_a_missing_box_alone():
    report = Report()
    square = [[1, 2, 3, 2, 3, 5]]
    taken = read_object(Given(None, segmentation=square), HW, report, "a")
    kept = read_object(Given([4, 4, 2, 2], 4, 0, segmentation=square), HW, report, "b")
    assert taken is not None
    assert kept is not None
    assert (taken.box, kept.box) == ((1, 2, 2, 3), (4, 4, 2, 2))
    assert report.counts == {"boxes_from_segmentation": 1, "area_filled_in": 1}


@pytest.mark.parametrize(
    ("area", "read", "counted"),
    [
        (5, 5.0, None),
        (0, 0.0, None),
        (1e10, 1e10, None),
        (None, 156.0, "area_filled_in"),
        ("5", 156.0, "area_filled_in"),
        (math.nan, 156.0, "area_filled_in"),
        (math.inf, 156.0, "area_filled_in"),
        (-1, 156.0, "area_out_of_range"),
        (-0.001, 156.0, "area_out_of_range"),
        (1.001e10, 156.0, "area_out_of_range"),
        (10**400, 156.0, "area_out_of_range"),
    ],
)
def test_areas_that_evaluation_would_leave_out_are_replaced(area, read, counted):
    report = Report()
    found = read_object(Given(BOX, area, 0), HW, report, "a")
    assert found is not None
    assert found.area == read
    assert report.counts == ({counted: 1} if counted else {})


@pytest.mark.parametrize(
    ("iscrowd", "ignore", "read", "counted"),
    [
        (0, None, 0, []),
        (1, None, 1, []),
        (None, None, 0, []),
        (True, None, 1, []),
        (1.0, None, 1, []),
        ("1", None, 1, []),
        ("0", None, 0, []),
        ("true", None, 1, ["iscrowd_in_words"]),
        ("No", None, 0, ["iscrowd_in_words"]),
        ("maybe", None, 0, ["iscrowd_unreadable"]),
        ([1], None, 0, ["iscrowd_unreadable"]),
        (math.nan, None, 0, ["iscrowd_unreadable"]),
        (0, 1, 1, ["ignored_as_crowds"]),
        (None, True, 1, ["ignored_as_crowds"]),
        (0, "yes", 1, ["ignored_as_crowds"]),
        (0, 0, 0, []),
        (1, 1, 1, []),
        (0, "perhaps", 0, ["ignore_unreadable"]),
    ],
)
def test_flags_in_every_form(iscrowd, ignore, read, counted):
    report = Report()
    found = read_object(Given(BOX, 5, iscrowd, ignore), HW, report, "a")
    assert found is not None
    assert found.iscrowd == read
    assert sorted(report.counts) == counted


NUMBERS = st.one_of(
    st.integers(-100, 200), st.floats(-1e3, 1e3), st.sampled_from([math.nan, math.inf, None, "3"])
)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(NUMBERS, min_size=3, max_size=5), min_size=1, max_size=8))
@example([[1, 0, 1e-308, 1]])
def test_every_listed_object_is_kept_inside_its_image_or_counted(boxes):
    report = Report()
    read = [read_object(Given(box), HW, report, "a") for box in boxes]
    kept = [one for one in read if one is not None]
    assert report.listed == len(boxes) == len(kept) + report.dropped
    for x, y, w, h in (one.box for one in kept):
        assert min(x + w, HW[1]) > max(x, 0)
        assert min(y + h, HW[0]) > max(y, 0)
    assert (report.close().explain_loss() is None) == bool(kept)


ENTRIES = st.tuples(st.lists(NUMBERS, min_size=4, max_size=4), st.sampled_from([None, -1, 3, 2e10]))


@settings(max_examples=100, deadline=None)
@given(st.lists(ENTRIES, max_size=12), st.data())
def test_reports_of_parts_add_up_to_that_of_the_whole(entries, data):
    def read(part):
        report = Report()
        for number, (box, area) in part:
            read_object(Given(box, area), HW, report, f"{number}.jpg")
        return report

    numbered = list(enumerate(entries))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(entries)), max_size=3)))
    merged = Report()
    for begin, end in zip([0, *cuts], [*cuts, len(entries)], strict=True):
        merged.merge(read(numbered[begin:end]))
    whole = read(numbered).close()
    merged.close()
    assert (merged.counts, merged.listed) == (whole.counts, whole.listed)
    assert repr(merged.first) == repr(whole.first)  # by their text, for NaN


def _report_of(boxes, size_hw=(480, 640)):
    report = Report()
    for number, box in enumerate(boxes):
        read_object(Given(box, 4, 0), size_hw, report, f"{number}.jpg")
    return report.close().counts


def test_normalised_boxes_and_corners_are_suspected_and_pixels_are_not():
    rng = np.random.default_rng(0)
    low, high = np.sort(rng.random((2, 400, 2)), axis=0) * (640, 480)
    corners = np.concatenate((low, high), 1)
    pixels = np.concatenate((low, high - low), 1)
    assert _report_of((pixels / (640, 480, 640, 480)).tolist())["boxes_look_normalised"] == 400
    assert _report_of(corners.tolist())["boxes_look_like_corners"] > 100
    assert not {"boxes_look_normalised", "boxes_look_like_corners"} & _report_of(pixels.tolist()).keys()
    whole = [[0, 0, 640, 480], [0, 0, 640.4, 480], [1, 1, 2, 2]]
    assert _report_of(whole) == {"clipped": 1}


def test_a_report_names_the_first_places_and_what_follows():
    report = Report()
    for number in range(5):
        read_object(Given(BOX, -1, 0), HW, report, f"{number}.jpg")
    (line,) = describe_report(report.counts, report.first)
    assert line.startswith("warning: area out of range: 5 (first: 0.jpg -1, 1.jpg -1, 2.jpg -1); an `area`")
    assert describe_report({"clipped": 2}, {}) == ["clipped: 2"]
    assert "learns to find nothing" in (describe_objects(0, "x", training=True) or "")
    assert "no AP" in (describe_objects(0, "x", training=False) or "")
    assert describe_objects(None, "x", training=True) is describe_objects(3, "x", training=True) is None


@pytest.mark.parametrize(
    ("value", "read"),
    [
        *((3, 3), (3.0, 3), ("3", 3), (" 3 ", 3), ("-3", -3), ("003", 3)),
        *((value, None) for value in (None, True, 3.5, "3.5", "three", "²", "", [3], "9" * 30)),
        *((math.nan, None), (math.inf, None)),
    ],
)
def test_whole_numbers_are_read_from_floats_and_quotes(value, read):
    assert read_integer(value) == read


def test_json_of_any_depth_is_no_segmentation():
    deep = json.loads("[" * 500 + "]" * 500)
    assert box_around(deep) is None
