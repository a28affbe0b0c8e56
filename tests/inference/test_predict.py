"""Prediction: every kind of image, any batching, the numbers of the evaluation in training."""

import dataclasses
import io
import math

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

import qdet
from qdet.data.image.resize import resize
from qdet.data.image.sizes import detr_sizes
from qdet.data.loading.planned_stream import EvalStream
from qdet.data.loading.stream_config import StreamConfig
from qdet.data.shards.shard_set import ShardSet
from qdet.errors import ConfigError, DataError
from qdet.evaluation import DetectionRows, evaluate, merge
from qdet.inference.detections import Unreadable
from qdet.inference.evaluate import detect_in_batches
from qdet.types import BatchDetections
from tests.inference.conftest import encode


class MeanRunner:
    """Finds one box in each image, as large as it; its score is the image's mean, of 1, and its class 1."""

    device = torch.device("cpu")

    def __call__(self, images, sizes_hw, original_hw) -> BatchDetections:
        parts = [image[:, :h, :w] for image, (h, w) in zip(images, sizes_hw.tolist(), strict=True)]
        means = torch.stack([part.float().mean() / 255 for part in parts])
        corners = torch.cat((torch.zeros_like(original_hw), original_hw.flip(1)), dim=1)
        return BatchDetections(
            corners.float()[:, None], means[:, None], torch.ones(len(images), 1, dtype=torch.int64)
        )


class WhiteRunner:
    """Finds the connected white pixels of each image."""

    device = torch.device("cpu")

    def __call__(self, images, sizes_hw, original_hw) -> BatchDetections:
        rows = []
        for image, (h, w), original in zip(images, sizes_hw.tolist(), original_hw, strict=True):
            white = (image[0, :h, :w].numpy() > 128).astype(np.uint8)
            number, _, stats, _ = cv2.connectedComponentsWithStats(white)
            scale = original.flip(0).repeat(2) / torch.tensor([w, h, w, h])
            boxes = torch.zeros(20, 5)
            for i in range(1, number):
                x, y, box_w, box_h, area = stats[i]
                boxes[i, :4] = torch.tensor([x, y, x + box_w, y + box_h]) * scale
                boxes[i, 4] = 0.5 + 0.4 * area / (h * w)
            rows.append(boxes)
        found = torch.stack(rows)
        return BatchDetections(found[..., :4], found[..., 4], torch.ones(found.shape[:2], dtype=torch.int64))


def assert_mean_of(found: qdet.Detections, image: np.ndarray) -> None:
    h, w = image.shape[:2]
    assert found.size_hw == (h, w)
    assert found.boxes_xyxy.tolist() == [[0, 0, w, h]]
    assert found.scores[0] == pytest.approx(image.mean() / 255, abs=0.01)


@pytest.fixture(scope="module")
def mean_model(model) -> qdet.Model:
    return dataclasses.replace(model, runner=MeanRunner())


def literally(model: qdet.Model, image: np.ndarray, *, short: int = 64, longest: int = 64):
    """Detect in one image step by step: resize, pad to multiples of 32, forward, best pairs."""
    h, w = detr_sizes(np.array([image.shape[:2]]), np.array([short]), longest)[0].tolist()
    padded = np.zeros((1, 3, math.ceil(h / 32) * 32, math.ceil(w / 32) * 32), np.uint8)
    padded[0, :, :h, :w] = resize(image, (h, w)).transpose(2, 0, 1)
    with torch.no_grad():
        last = model.detector(torch.from_numpy(padded), torch.tensor([[h, w]]))[-1]
    pairs = [
        (score, label, query)
        for query, row in enumerate(last.logits[0].sigmoid().tolist())
        for label, score in enumerate(row)
    ]
    pairs.sort(reverse=True)
    best = pairs[: model.detector.detections]
    factor = np.array([image.shape[1] / w, image.shape[0] / h] * 2)
    boxes = np.array([last.boxes_xyxy[0, query].numpy() * factor for _, _, query in best])
    return boxes, np.array([score for score, _, _ in best]), np.array([label for _, label, _ in best])


def assert_same(found: qdet.Detections, boxes, scores, labels, tolerance: float = 1e-4) -> None:
    np.testing.assert_allclose(found.scores, scores, atol=tolerance)
    np.testing.assert_allclose(found.boxes_xyxy, boxes, atol=100 * tolerance)
    np.testing.assert_array_equal(found.labels, labels)


def test_an_image_is_detected_in_as_a_literal_reading_does(model, arrays):
    for array in arrays:
        assert_same(model.predict(array, score=0.0), *literally(model, array))


def test_every_way_of_giving_an_image_gives_the_same(model, arrays, files, tmp_path):
    array, file = arrays[0], files[0]
    wanted = model.predict(array, score=0.0)
    ways = [
        file,
        str(file),
        file.as_uri(),
        file.read_bytes(),
        Image.fromarray(array),
        torch.from_numpy(array).permute(2, 0, 1),
        encode(array, "BMP"),
    ]
    for way in ways:
        found = model.predict(way, score=0.0)
        np.testing.assert_array_equal(found.boxes_xyxy, wanted.boxes_xyxy)
        np.testing.assert_array_equal(found.scores, wanted.scores)
        np.testing.assert_array_equal(found.labels, wanted.labels)
        np.testing.assert_array_equal(found.image, array)


def test_grey_images_are_three_equal_channels(model, arrays):
    grey = arrays[0][..., 0].copy()
    wanted = model.predict(np.repeat(grey[..., None], 3, axis=2), score=0.0)
    np.testing.assert_array_equal(model.predict(grey, score=0.0).scores, wanted.scores)


@given(
    order=st.lists(st.integers(0, 6), min_size=1, max_size=9),
    batch=st.integers(1, 4),
    lazily=st.booleans(),
)
def test_results_come_in_the_given_order_however_they_are_batched(mean_model, arrays, order, batch, lazily):
    images = [arrays[i] for i in order]
    found = list(mean_model.predict(iter(images) if lazily else images, batch=batch, score=0.0))
    assert len(found) == len(order)
    for one, image in zip(found, images, strict=True):
        assert_mean_of(one, image)


def test_an_iterator_is_read_no_further_than_needed(mean_model, arrays):
    taken = []

    def images():
        for number in range(1000):
            taken.append(number)
            yield arrays[number % len(arrays)]

    found = mean_model.predict(images(), batch=2, score=0.0)
    next(found)
    assert len(taken) <= 8


def test_a_batch_of_four_dimensions_is_a_list(mean_model, arrays):
    both = np.stack([arrays[1], arrays[4]])
    for found, array in zip(mean_model.predict(both, score=0.0), both, strict=True):
        assert_mean_of(found, array)


def test_score_leaves_out_the_rest(model, arrays):
    everything = model.predict(arrays[0], score=0.0)
    least = float(np.median(everything.scores))
    np.testing.assert_array_equal(
        model.predict(arrays[0], score=least).scores, everything.scores[everything.scores >= least]
    )


def test_another_size_is_the_short_side_and_keeps_the_limit_in_proportion(model, arrays):
    found = model.predict(arrays[0], size=96, score=0.0)
    assert_same(found, *literally(model, arrays[0], short=96, longest=96))


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"score": 1.5}, "score"),
        ({"batch": 0}, "batch"),
        ({"size": 0}, "size"),
        ({"size": 100_000}, "size 100000 makes images of up to 100000x100000 pixels"),
        ({"tile": 3}, "tile"),
    ],
)
def test_impossible_settings_are_named(model, arrays, options, named):
    with pytest.raises(ConfigError, match=named):
        model.predict(arrays[0], **options)


@pytest.mark.parametrize(
    ("image", "said"),
    [
        ("nowhere/street.jpg", "nowhere/street.jpg is not there"),
        (b"", "no JPEG"),
        (b"hello world", "no JPEG"),
        (np.zeros((4, 4, 3), np.float32), "uint8"),
        (np.zeros((4, 4, 2), np.uint8), r"\[H, W, 3\]"),
        (np.zeros((0, 4, 3), np.uint8), r"\[H, W, 3\]"),
        (torch.zeros(4, 4, 3, dtype=torch.uint8), r"\[3, H, W\]"),
        (17, "int"),
        ({"street.jpg": 1}, "dict is no image"),
        pytest.param(
            io.BytesIO(b"hello"), "BytesIO is no image.*; of a file give the path or bytes", id="open file"
        ),
    ],
    ids=str,
)
def test_what_is_no_image_is_said_to_be_none(model, image, said):
    with pytest.raises(DataError, match=said):
        model.predict(image, score=0.0)


def test_a_bad_image_among_others_is_returned_in_its_place(mean_model, arrays, files):
    files[2].write_bytes(files[2].read_bytes()[:40])
    found = mean_model.predict([*files, "nowhere.png"], errors="return", score=0.0)
    assert [type(one) for one in found] == [qdet.Detections] * 2 + [Unreadable] + [qdet.Detections] * 4 + [
        Unreadable
    ]
    assert str(files[2]) in found[2].reason
    for number in (0, 1, 3, 4, 5, 6):
        assert_mean_of(found[number], arrays[number])
    with pytest.raises(DataError, match=files[2].name):
        mean_model.predict(files, score=0.0)


@pytest.mark.parametrize("size", [(300, 500), (90, 64), (64, 64)])
def test_tiles_find_each_object_once_in_pixels_of_the_whole_image(model, size):
    image = np.zeros((*size, 3), np.uint8)
    places = [(y, x) for y in range(10, size[0] - 20, 70) for x in range(10, size[1] - 20, 70)]
    for y, x in places:
        image[y : y + 9, x : x + 13] = 255
    found = dataclasses.replace(model, runner=WhiteRunner()).predict(image, tile=64, size=64, score=0.0)
    whole = {(y, x, y + 9, x + 13) for y, x in places}
    boxes = [(box[1], box[0], box[3], box[2]) for box in found.boxes_xyxy.round().astype(int).tolist()]
    assert len(boxes) == len(set(boxes))
    assert whole <= set(boxes)
    for top, left, bottom, right in boxes:  # what a tile cuts off is part of an object
        assert any(y <= top and x <= left and bottom <= b and right <= r for y, x, b, r in whole)


HEADS = [b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"II*\0", b"RIFF\0\0\0\0WEBP", b"\xff\xd8\xff"]


@pytest.mark.parametrize("head", HEADS)
def test_reasons_name_no_address_in_memory(model, head):
    with pytest.raises(DataError, match="image 0 is no readable") as raised:
        model.predict(head + bytes(40), score=0.0)
    assert "0x" not in str(raised.value)


def test_no_more_pixels_are_decoded_than_allowed(model, arrays):
    with pytest.raises(DataError, match="60x40 pixels, more than --max-pixels 1000"):
        model.predict(encode(arrays[0], "PNG"), max_pixels=1000, score=0.0)


def test_pixels_of_another_library_are_taken_without_a_warning(model, arrays, recwarn):
    """Pillow gives arrays that may not be written to, of which torch warns."""
    model.predict(np.asarray(Image.fromarray(arrays[0])), score=0.0)
    assert not [str(one.message) for one in recwarn]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_photographs_are_turned_upright(model, arrays, orientation, kind):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = encode(arrays[0], kind, exif=exif, **({"quality": 95} if kind == "JPEG" else {}))
    with Image.open(io.BytesIO(stored)) as opened:
        upright = np.array(ImageOps.exif_transpose(opened).convert("RGB"))
    found = model.predict(stored, score=0.0)
    assert found.size_hw == upright.shape[:2]
    np.testing.assert_array_equal(found.image, upright)
    np.testing.assert_array_equal(found.scores, model.predict(upright, score=0.0).scores)


@pytest.mark.parametrize("mode", ["CMYK", "P", "LA", "RGBA", "1", "L"])
def test_all_modes_become_rgb_as_pillow_makes_them(model, arrays, mode):
    image = Image.fromarray(arrays[0]).convert(mode)
    kind = "TIFF" if mode == "CMYK" else "PNG"
    out = io.BytesIO()
    image.save(out, kind)
    np.testing.assert_array_equal(
        model.predict(out.getvalue(), score=0.0).image, np.array(image.convert("RGB"))
    )


def test_predictions_of_a_folder_have_the_ap_of_the_evaluation(model, demo_shards):
    """Files in, shards in: the same detections to the last bit."""
    shards = ShardSet.open(demo_shards / "val")
    truth = shards.ground_truth()
    ids = [image["id"] for image in truth["images"]]
    description = model.description
    # The model's three classes stand for the first three of the dataset.
    category_ids = shards.categories.ids[: len(model.classes)]

    def detect(rank: int, world_size: int) -> DetectionRows:
        config = StreamConfig(batch_size=description.eval.batch_size, rank=rank, world_size=world_size)
        return detect_in_batches(model.runner, EvalStream(shards, description.augment, config), category_ids)

    rows = detect(0, 1)
    found = model.predict(
        [demo_shards / "coco" / "val" / image["file_name"] for image in truth["images"]], score=0.0
    )
    boxes = np.concatenate([one.boxes_xyxy for one in found]).astype(np.float64)
    labels = np.concatenate([one.labels for one in found])
    predicted = DetectionRows(
        image_ids=np.repeat(ids, [len(one) for one in found]),
        category_ids=np.array(category_ids)[labels],
        boxes_xywh=np.concatenate((boxes[:, :2], boxes[:, 2:] - boxes[:, :2]), axis=1),
        scores=np.concatenate([one.scores for one in found]).astype(np.float64),
        seen=np.array(ids),
    ).in_order()
    for column in ("image_ids", "category_ids", "boxes_xywh", "scores"):
        np.testing.assert_array_equal(getattr(predicted, column), getattr(rows.in_order(), column))
    assert evaluate(truth, predicted).as_dict() == evaluate(truth, rows).as_dict()
    assert (
        evaluate(truth, merge([detect(rank, 3) for rank in range(3)])).as_dict()
        == evaluate(truth, rows).as_dict()
    )
