"""Jittered, mosaicked and blended samples: boxes of rendered rectangles follow their pixels."""

import colorsys
import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageDraw
from rich.console import Console

from data_prep.coco_to_shards import Conversion, convert
from qdet.data.augment import AugmentConfig
from qdet.data.loading.sample import FILL, load_sample
from qdet.data.plan.epoch import EpochPlan
from qdet.data.plan.reading import Reading
from qdet.data.plan.views import draw_views
from qdet.data.shards.shard_set import ShardSet
from qdet.errors import ConfigError

SIZES = ((60, 90), (90, 60), (64, 64), (120, 80), (48, 100), (70, 70))
JITTER = AugmentConfig(scale_jitter=(0.3, 2.0), jitter_size=128)
MOSAIC = AugmentConfig(sizes=(96, 160), max_size=200, mosaic=0.7, mosaic_size=96)
RTMDET = replace(JITTER, mosaic=0.7, mosaic_size=96)
CROPPED = replace(MOSAIC, crop=True, crop_sizes=(120,), crop_range=(60, 110))


@pytest.fixture(scope="module")
def rectangles(tmp_path_factory):
    """Shards of images of two rectangles each; every rectangle has a class and a colour of its own."""
    root = tmp_path_factory.mktemp("rectangles")
    (root / "train").mkdir()
    (root / "annotations").mkdir()
    content = {"images": [], "annotations": [], "categories": []}
    for i, (h, w) in enumerate(SIZES):
        image = Image.new("RGB", (w, h))
        for k, box in enumerate(((4, 5, w // 2 - 6, h - 8), (w // 2 + 5, 9, w - 3, h // 2))):
            number = 2 * i + k
            ImageDraw.Draw(image).rectangle((box[0], box[1], box[2] - 1, box[3] - 1), fill=colour(number))
            xywh = [box[0], box[1], box[2] - box[0], box[3] - box[1]]
            content["categories"].append({"id": 1 + number, "name": f"rectangle {number}"})
            content["annotations"].append(
                {
                    "id": 1 + number,
                    "image_id": 1 + i,
                    "category_id": 1 + number,
                    "bbox": xywh,
                    "area": xywh[2] * xywh[3],
                    "iscrowd": 0,
                }
            )
        image.save(root / "train" / f"{i}.png")
        content["images"].append({"id": 1 + i, "file_name": f"{i}.png", "height": h, "width": w})
    (root / "annotations" / "instances_train.json").write_text(json.dumps(content))
    out = root / "shards"
    convert(Conversion(coco=root, split="train", out=out, processes=1), console=Console(quiet=True))
    return ShardSet.open(out)


def colour(number):
    """A saturated colour: neither black nor the grey of a canvas, nor like another one."""
    return tuple(round(255 * part) for part in colorsys.hsv_to_rgb(number / 12, 1, 1))


def sizes_of(shards):
    return np.stack([shards.index.height, shards.index.width], axis=1).astype(np.int64)


def drawn(shards, view, row):
    pixels = np.zeros((*view.final_hw, 3), dtype=np.uint8)
    objects = load_sample(shards, row, view, pixels)
    return pixels, objects


@pytest.mark.parametrize(("augment", "blur"), [(JITTER, 2), (MOSAIC, 2), (RTMDET, 2), (CROPPED, 5)])
def test_boxes_follow_their_pixels(rectangles, augment, blur):
    seen = mosaics = 0
    for epoch in range(4):
        views = draw_views(sizes_of(rectangles), augment, seed=5, epoch=epoch)
        for row in range(len(rectangles)):
            view = views.of(row)
            mosaics += view.mosaic is not None
            pixels, objects = drawn(rectangles, view, row)
            seen += check_rectangles(pixels, objects, blur)
    assert seen > 30
    assert (mosaics > 8) == (augment.mosaic > 0)


def check_rectangles(pixels, objects, blur=2):
    """Every box holds its colour up to its edges and not beyond; every colour in sight has a box.

    Edges are `blur` pixels wide: each resize blurs them, and the next one magnifies that.
    """
    (h, w), labels = pixels.shape[:2], objects.labels.tolist()
    unexplained, seen = np.ones((h, w), dtype=bool), 0
    for (x1, y1, x2, y2), label in zip(objects.boxes_xyxy, objects.labels, strict=True):
        assert 0 <= x1 < x2 <= w
        assert 0 <= y1 < y2 <= h
        is_it = abs(pixels.astype(int) - colour(int(label))).max(axis=2) < 40
        left, top = int(np.ceil(x1)) + blur, int(np.ceil(y1)) + blur
        right, bottom = int(x2) - blur, int(y2) - blur
        if left < right and top < bottom:
            assert is_it[top:bottom, left:right].all()
            seen += 1
        around = np.zeros((h, w), dtype=bool)
        left, top = max(int(x1) - blur, 0), max(int(y1) - blur, 0)
        around[top : int(np.ceil(y2)) + blur, left : int(np.ceil(x2)) + blur] = True
        if labels.count(label) == 1:  # a mosaic may show an image twice, side by side
            assert not (is_it & ~around).any()
        unexplained &= ~around
    bright = (pixels.max(axis=2).astype(int) - pixels.min(axis=2)) > 100
    assert not (bright & unexplained).any()
    return seen


def test_a_mosaic_is_four_images_around_a_point_on_grey(rectangles):
    views = draw_views(sizes_of(rectangles), replace(MOSAIC, mosaic=1.0), seed=0, epoch=0)
    for row in range(len(rectangles)):
        canvas = views.of(row).mosaic
        assert canvas.size_hw == (192, 192)
        first, right, below, across = canvas.pieces
        assert first.row == row
        meet = first.at_tl[0] + first.view.final_hw[0], first.at_tl[1] + first.view.final_hw[1]
        assert 48 <= min(meet) <= max(meet) <= 144
        assert right.at_tl[1] == below.at_tl[0] - meet[0] + meet[1] == meet[1]
        assert across.at_tl == meet
        for piece in canvas.pieces:
            assert max(piece.view.resized_hw) == 96
            height, width = piece.view.final_hw
            assert 0 < piece.at_tl[0] + height <= 192
            assert 0 < piece.at_tl[1] + width <= 192
        assert set(views.needed(np.array([row]))) == {piece.row for piece in canvas.pieces}
    pixels, _ = drawn(rectangles, replace(views.of(0), resized_hw=(192, 192), final_hw=(192, 192)), 0)
    assert (pixels == FILL).all(axis=2).any()


def test_mixup_is_half_of_each_image_with_the_objects_of_both(rectangles):
    augment = AugmentConfig(sizes=(80, 120), max_size=160, mixup=1.0)
    views = draw_views(sizes_of(rectangles), augment, seed=1, epoch=0)
    mirrored = 0
    for row in range(len(rectangles)):
        view = views.of(row)
        (piece,) = view.mixup.pieces
        own, objects = drawn(rectangles, replace(view, mixup=None), row)
        other, partners = drawn(rectangles, piece.view, piece.row)
        assert piece.view.final_hw[0] <= view.final_hw[0]
        assert piece.view.final_hw[1] <= view.final_hw[1]
        check_rectangles(other, partners)
        expected = np.full(own.shape, FILL, dtype=float)
        expected[: other.shape[0], : other.shape[1]] = other
        both, found = drawn(rectangles, view, row)
        assert abs(both - (own + expected) / 2).max() <= 0.5
        np.testing.assert_array_equal(
            found.boxes_xyxy, np.concatenate([objects.boxes_xyxy, partners.boxes_xyxy])
        )
        assert found.labels.tolist() == [*objects.labels, *partners.labels]
        assert row in views.needed(np.array([row]))
        assert piece.row in views.needed(np.array([row]))
        mirrored += piece.view.flip
    assert 0 < mirrored < len(rectangles)


def test_jitter_scales_within_its_range_and_cuts_to_its_square():
    sizes = np.random.default_rng(0).integers(50, 900, (4000, 2))
    views = draw_views(sizes, AugmentConfig(scale_jitter=(0.1, 2.0), jitter_size=512), seed=0, epoch=0)
    factor = views.resized_hw.max(axis=1) / 512
    assert 0.099 < factor.min() < 0.12
    assert 1.98 < factor.max() <= 2.0
    assert abs(np.histogram(factor, 4, (0.1, 2.0))[0] / 4000 - 0.25).max() < 0.03
    np.testing.assert_array_equal(views.final_hw, np.minimum(views.resized_hw, 512))
    aspect = views.resized_hw[:, 0] / views.resized_hw[:, 1]
    rounding = 1 / views.resized_hw.min(axis=1)
    assert (abs(np.log(aspect / (sizes[:, 0] / sizes[:, 1]))) <= 2 * rounding).all()
    end = views.window_tlhw[:, :2] + views.window_tlhw[:, 2:]
    assert (views.window_tlhw >= 0).all()
    assert (end <= views.resized_hw).all()
    assert (end == views.resized_hw).all(axis=1)[views.cropped].any()


def test_mosaic_partners_are_near_in_reading_order_and_change_no_other_draw():
    sizes = np.random.default_rng(0).integers(50, 900, (9000, 2))
    augment = AugmentConfig(mosaic=0.5, mixup=0.5, photometric=True)
    plain, order = AugmentConfig(), np.random.default_rng(1).permutation(9000)
    position = np.argsort(order)
    reading = Reading(position, lambda positions: order[positions], len(order))
    views = draw_views(sizes, augment, seed=2, epoch=3, reading=reading)
    apart = abs(position[views.mixtures.partners] - position[:, None])
    assert 1000 < apart.max() < 2048
    assert (apart == 0).mean() < 0.002
    alone = ~views.mixtures.mosaic
    assert 0.47 < alone.mean() < 0.53
    without = draw_views(sizes, plain, seed=2, epoch=3)
    np.testing.assert_array_equal(views.final_hw[alone], without.final_hw[alone])
    np.testing.assert_array_equal(views.flip, without.flip)
    again = draw_views(sizes, augment, seed=2, epoch=3, reading=reading)
    assert [views.of(row) for row in range(50)] == [again.of(row) for row in range(50)]
    other = draw_views(sizes, augment, seed=2, epoch=4, reading=reading)
    assert [views.of(row) for row in range(50)] != [other.of(row) for row in range(50)]


def test_a_plan_with_mixtures_pads_to_the_final_sizes(rectangles):
    plan = EpochPlan(sizes_of(rectangles), RTMDET, seed=0, epoch=0, global_batch=3).whole()
    for step, rows in enumerate(plan.rows):
        largest = np.array([plan.views.of(int(row)).final_hw for row in rows]).max(axis=0)
        assert (plan.padded_hw[step] >= largest).all()
        assert (plan.padded_hw[step] < largest + 32).all()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"mosaic": 1.5}, "--data.augment.mosaic is a probability"),
        ({"mixup": -0.1}, "--data.augment.mixup is a probability"),
        ({"mosaic_size": 1}, "--data.augment.mosaic-size must be at least 2"),
        ({"scale_jitter": (0.0, 2.0)}, "--data.augment.scale-jitter"),
        ({"scale_jitter": (0.1, 2.0), "crop": True}, "--data.augment.no-crop"),
    ],
)
def test_mixture_settings_that_cannot_work_are_refused(settings, said):
    with pytest.raises(ConfigError, match=said):
        AugmentConfig(**settings)
