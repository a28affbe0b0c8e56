"""Pictures of detections: what is drawn where, and that nothing a detector says breaks them."""

import io
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from qdet.evaluation import DetectionRows
from qdet.visualize.boxes import DrawnBoxes, colour, comparison_sheet, contact_sheet, draw, png, side_by_side

NAMES = {3: "cat", 90: "dog"}


def grey(height: int = 64, width: int = 64) -> np.ndarray:
    return np.full((height, width, 3), 128, np.uint8)


def boxes(*rows: tuple[float, float, float, float], label: int = 3, score: float = 0.9) -> DrawnBoxes:
    n = len(rows)
    return DrawnBoxes(np.array(rows, np.float64).reshape(-1, 4), np.full(n, label), np.full(n, score))


def has(image: np.ndarray, ink: tuple[int, int, int]) -> np.ndarray:
    return (image == np.array(ink, np.uint8)).all(-1)


def test_a_box_is_drawn_in_its_classs_colour_at_its_place():
    image = grey()
    drawn = draw(image, boxes((8, 16, 56, 48), label=90), NAMES, size=512)
    assert drawn.shape == (512, 512, 3)
    assert (image == 128).all()  # the caller's image is left alone
    edges = has(drawn, colour(1))
    ys, xs = np.nonzero(edges)
    assert xs.min() == pytest.approx(8 * 8, abs=2)
    assert xs.max() == pytest.approx(56 * 8, abs=2)
    assert ys.max() == pytest.approx(48 * 8, abs=2)
    assert not has(drawn, colour(0)).any()
    assert (drawn[250:300, 200:300] == 128).all()  # the object itself stays visible


def test_only_scores_above_the_threshold_are_drawn():
    drawn = draw(grey(), boxes((8, 8, 40, 40), score=0.29), NAMES, threshold=0.3)
    assert (drawn == 128).all()
    drawn = draw(grey(), boxes((8, 8, 40, 40), score=0.3), NAMES, threshold=0.3)
    assert has(drawn, colour(0)).any()


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(*[st.floats(-300, 300)] * 4), max_size=12),
    st.integers(1, 90),
    st.integers(1, 90),
)
def test_any_box_on_any_image_can_be_drawn(corners, height, width):
    drawn = draw(grey(height, width), boxes(*corners, label=7), NAMES, size=200)
    assert max(drawn.shape[:2]) == 200


def test_colours_of_neighbouring_classes_differ():
    inks = np.array([colour(i) for i in range(24)], float)
    distance = np.abs(inks[:, None] - inks[None]).sum(-1) + 1000 * np.eye(24)
    assert distance.min() > 40
    assert np.abs(np.diff(inks, axis=0)).sum(-1).min() > 150


def test_side_by_side_shows_the_image_twice():
    image = np.random.default_rng(0).integers(0, 255, (40, 60, 3)).astype(np.uint8)
    nothing = boxes()
    pair = side_by_side(image, nothing, DrawnBoxes(nothing.boxes_xyxy, nothing.labels), NAMES, size=120)
    assert pair.shape[1] == 2 * 120 + 10
    np.testing.assert_array_equal(pair[-80:, :120], pair[-80:, -120:])


def test_contact_sheet_holds_every_picture():
    pictures = [np.full((30 + i, 50, 3), 10 * i, np.uint8) for i in range(7)]
    sheet = contact_sheet(pictures, columns=3, title="shapes")
    for i in range(7):
        assert has(sheet, (10 * i,) * 3).sum() >= (30 + i) * 50
    with Image.open(io.BytesIO(png(sheet))) as decoded:
        np.testing.assert_array_equal(np.asarray(decoded), sheet)
    with pytest.raises(ValueError, match="at least one"):
        contact_sheet([])


def test_boxes_come_from_rows_and_from_coco():
    rows = DetectionRows(
        np.array([1, 2, 1]),
        np.array([3, 3, 90]),
        np.array([[0, 0, 5, 5], [1, 1, 1, 1], [2, 3, 4, 5.0]]),
        np.array([0.9, 0.8, 0.2]),
        np.array([1, 2]),
    )
    found = DrawnBoxes.of_rows(rows, 1)
    assert found.boxes_xyxy.tolist() == [[0, 0, 5, 5], [2, 3, 6, 8]]
    assert found.labels.tolist() == [3, 90]
    coco = {
        "annotations": [
            {"image_id": 1, "category_id": 3, "bbox": [1, 2, 3, 4]},
            {"image_id": 1, "category_id": 3, "bbox": [1, 2, 3, 4], "iscrowd": 1},
        ]
    }
    assert DrawnBoxes.of_truth(coco, 1).boxes_xyxy.tolist() == [[1, 2, 4, 6]]
    assert len(DrawnBoxes.of_truth(coco, 5)) == 0


def test_real_images_are_drawn(coco_root):
    truth = json.loads((coco_root / "annotations" / "instances_val2017.json").read_text())
    names = {c["id"]: c["name"] for c in truth["categories"]}
    pairs = []
    for image in truth["images"][:3]:
        with Image.open(coco_root / "val2017" / image["file_name"]) as file:
            pixels = np.asarray(file.convert("RGB"))
        objects = DrawnBoxes.of_truth(truth, image["id"])
        found = DrawnBoxes(objects.boxes_xyxy, objects.labels, np.linspace(0.2, 1, len(objects)))
        pairs.append(side_by_side(pixels, found, objects, names, title=f"image {image['id']}"))
    assert len(png(contact_sheet(pairs, title="val2017"))) > 100_000


def test_comparison_sheet_draws_every_image():
    truth = {
        "categories": [{"id": 3, "name": "cat"}, {"id": 90, "name": "dog"}],
        "annotations": [{"image_id": 2, "category_id": 90, "bbox": [8, 8, 30, 30]}],
    }
    rows = DetectionRows(
        np.array([1]), np.array([3]), np.array([[8, 8, 30, 30.0]]), np.array([0.9]), np.array([1, 2])
    )
    sheet = comparison_sheet({1: grey(), 2: grey(48, 64)}, rows, truth, title="both")
    assert has(sheet, colour(0)).any()  # the cat that was found
    assert has(sheet, colour(1)).any()  # the dog that is there
