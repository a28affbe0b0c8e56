"""Annotations that would silently mean something else: mended where that is certain, else counted."""

import io
import json

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from data_prep.coco_to_shards import Conversion, convert
from data_prep.to_shards import ToShards
from data_prep.to_shards import convert as convert_any
from data_prep.verify import Verification, verify
from qdet.data.loading.sample import load_image
from qdet.data.shards.shard_set import ShardSet
from qdet.errors import DataError
from qdet.evaluation import evaluate
from qdet.evaluation.rows import DetectionRows

W, H = 64, 48
OBJECT = {"bbox": [8, 12, 13, 12], "area": 156, "iscrowd": 0, "category_id": 1}


@pytest.fixture
def dataset(tmp_path):
    """Content to change, and functions that write its images and convert it."""
    content = {
        "images": [{"id": i, "file_name": f"{i}.jpg", "width": W, "height": H} for i in (1, 2, 3)],
        "annotations": [OBJECT | {"id": i, "image_id": i} for i in (1, 2, 3)],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    }
    return Dataset(tmp_path, content)


class Dataset:
    def __init__(self, folder, content):
        self.folder, self.content, self.said = folder, content, ""
        self.out = folder / "out"
        self.images = folder / "coco" / "train"
        self.images.mkdir(parents=True)
        self.paint()

    def paint(self, *, orientation=1, size=(W, H)):
        """Write every image."""
        exif = Image.Exif()
        if orientation != 1:
            exif[0x0112] = orientation
        for i in (1, 2, 3):
            pixels = np.random.default_rng(i).integers(0, 255, (size[1], size[0], 3)).astype(np.uint8)
            Image.fromarray(pixels).save(self.images / f"{i}.jpg", exif=exif)

    def change(self, **fields):
        """Set fields of the objects of the first two images."""
        for entry in self.content["annotations"][:2]:
            entry.update(fields)

    def convert(self, **settings) -> ShardSet:
        (self.folder / "coco" / "annotations").mkdir(exist_ok=True)
        file = self.folder / "coco" / "annotations" / "instances_train.json"
        file.write_text(json.dumps(self.content))
        text = io.StringIO()
        console = Console(file=text, width=1000)
        try:
            convert(
                Conversion(coco=self.folder / "coco", split="train", out=self.out, processes=1, **settings),
                console=console,
            )
        finally:
            self.said = text.getvalue()
        return ShardSet.open(self.out)


def _boxes(shards):
    return [a["bbox"] for a in shards.ground_truth()["annotations"]]


def _ap_of_perfect_detections(shards):
    truth = shards.ground_truth()
    listed = truth["annotations"]
    rows = DetectionRows(
        image_ids=np.array([a["image_id"] for a in listed]),
        category_ids=np.array([a["category_id"] for a in listed]),
        boxes_xywh=np.array([a["bbox"] for a in listed], np.float64),
        scores=np.full(len(listed), 0.9),
        seen=np.array([image["id"] for image in truth["images"]]),
    )
    return evaluate(truth, rows).AP


@pytest.mark.parametrize("area", [-156, 1e12, -1e-9])
def test_areas_that_evaluation_leaves_out_are_replaced(dataset, area):
    dataset.change(area=area)
    shards = dataset.convert()
    assert shards.manifest["report"] == {"area_out_of_range": 2}
    assert "warning: area out of range: 2 (first: 1.jpg " in dataset.said
    assert _ap_of_perfect_detections(shards) == pytest.approx(1)


def test_ignored_objects_are_crowds(dataset):
    dataset.change(ignore=1)
    shards = dataset.convert()
    assert {a["id"]: a["iscrowd"] for a in shards.ground_truth()["annotations"]} == {1: 1, 2: 1, 3: 0}
    assert "warning: ignored as crowds: 2 (first: 1.jpg, 2.jpg)" in dataset.said
    assert shards.objects == 1


def test_boxes_come_from_polygons_where_there_are_none(dataset):
    for entry in dataset.content["annotations"][:2]:
        del entry["bbox"]
        entry["segmentation"] = [[8, 12, 21, 12, 21, 24]]
    assert _boxes(dataset.convert()) == [[8, 12, 13, 12]] * 3
    assert "boxes from segmentation: 2 (first: 1.jpg, 2.jpg)" in dataset.said


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"bbox": [0, 0, 0, 0]}, r"dropped zero area: 3 \(first: 1\.jpg \[0, 0, 0, 0\], 2\.jpg"),
        ({"bbox": [800, 600, 5, 5]}, r"dropped outside image: 3 \(first: 1\.jpg \[800, 600, 5, 5\]"),
        ({"bbox": [1, 2, 3, 4, 5]}, r"dropped unreadable box: 3 \(first: 1\.jpg \[1, 2, 3, 4, 5\]"),
        ({"bbox": {"cx": 4}}, r"dropped unreadable box: 3 \(first: 1\.jpg \{'cx': 4\}"),
        ({"bbox": None}, r"dropped unreadable box: 3 \(first: 1\.jpg 'without bbox'"),
    ],
    ids=str,
)
def test_an_error_where_all_listed_boxes_are_lost(dataset, fields, said):
    for entry in dataset.content["annotations"]:
        entry.update(fields)
    with pytest.raises(DataError, match=f"none of the 3 boxes of train can be used .*{said}"):
        dataset.convert()
    assert not (dataset.folder / "out").exists()
    with pytest.raises(DataError, match=f"none of the 3 boxes of train can be used .*{said}"):
        convert_any(ToShards(folder=dataset.folder / "coco", out=dataset.folder / "any", processes=1))


def test_a_set_without_objects_is_converted_and_warned_of(dataset):
    dataset.content["annotations"] = []
    assert len(dataset.convert()) == 3
    assert "WARNING: no image of" in dataset.said
    assert "learns to find nothing" in dataset.said


@pytest.mark.parametrize("orientation", [2, 3, 4, 5, 8])
def test_images_that_viewers_turn_are_counted(dataset, orientation):
    for image in dataset.content["images"]:
        image["width"] = image["height"] = H
    dataset.paint(orientation=orientation, size=(H, H))
    shards = dataset.convert()
    assert shards.manifest["report"] == {"images_with_EXIF_orientation": 3}
    assert shards.manifest["first"] == {"images_with_EXIF_orientation": ["1.jpg", "2.jpg", "3.jpg"]}
    assert "warning: images with EXIF orientation: 3 (first: 1.jpg" in dataset.said


def test_swapped_width_and_height_are_told_from_a_turned_image(dataset):
    for image in dataset.content["images"]:
        image["width"], image["height"] = H, W
    with pytest.raises(
        DataError, match="says 48x64; width and height are swapped there, and the image has no"
    ):
        dataset.convert()
    dataset.paint(orientation=6)
    dataset.out = dataset.folder / "second"
    with pytest.raises(DataError, match="says 48x64; rotated by its EXIF orientation"):
        dataset.convert()


def test_normalised_boxes_and_corners_are_named(dataset):
    for entry in dataset.content["annotations"]:
        entry["bbox"] = [0.125, 0.25, 0.2, 0.25]
    dataset.convert()
    assert "warning: boxes look normalised: 3 (first: 1.jpg [0.125, 0.25, 0.2, 0.25]" in dataset.said
    for entry in dataset.content["annotations"]:
        entry["bbox"] = [40, 30, 60, 45]
    dataset.out = dataset.folder / "second"
    dataset.convert()
    assert "warning: boxes look like corners: 3 (first: 1.jpg [40.0, 30.0, 60.0, 45.0]" in dataset.said


def test_missing_sizes_are_read_from_the_images(dataset):
    whole = dataset.convert()
    for image in dataset.content["images"][:2]:
        del image["width"]
        image["height"] = None
    dataset.out = dataset.folder / "second"
    filled = dataset.convert()
    assert filled.manifest["report"] == {"image_sizes_filled_in": 2}
    assert filled.manifest["shardlist"] == whole.manifest["shardlist"]


def test_a_missing_size_of_a_damaged_image_is_its_damage(dataset):
    del dataset.content["images"][0]["width"]
    (dataset.images / "1.jpg").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"1\.jpg \(image 1\) is no JPEG"):
        dataset.convert()


def test_ids_in_quotes_are_numbers(dataset):
    whole = dataset.convert()
    for image in dataset.content["images"]:
        image["id"] = str(image["id"])
    for entry in dataset.content["annotations"]:
        entry.update({name: str(entry[name]) for name in ("id", "image_id", "category_id")})
    for category in dataset.content["categories"]:
        category["id"] = str(category["id"])
    assert dataset.convert().digest == whole.digest  # the same shards: there was nothing to do
    assert "already converted" in dataset.said


def test_ids_in_quotes_hold_out_with_their_images(dataset):
    """A split by share compares ids of images with those that objects name."""
    for entry in dataset.content["annotations"]:
        entry["image_id"] = str(entry["image_id"])
    file = dataset.folder / "coco" / "annotations" / "instances_train.json"
    file.parent.mkdir()
    file.write_text(json.dumps(dataset.content))
    out = dataset.folder / "out"
    convert_any(ToShards(folder=dataset.folder / "coco", out=out, val_share=0.4, processes=1))
    shards = [ShardSet.open(out / split) for split in ("train", "val")]
    assert [split.objects for split in shards] == [len(split) for split in shards]


@pytest.mark.parametrize("deep", [False, True])
def test_names_come_from_the_url_that_lvis_gives(dataset, deep):
    for image in dataset.content["images"]:
        image["coco_url"] = f"http://images.example.org/train2017/{image.pop('file_name')}"
    if deep:
        (dataset.images / "train2017").mkdir()
        for file in list(dataset.images.glob("*.jpg")):
            file.rename(dataset.images / "train2017" / file.name)
    shards = dataset.convert()
    names = {image["file_name"] for image in shards.ground_truth()["images"]}
    assert names == {f"{'train2017/' if deep else ''}{i}.jpg" for i in (1, 2, 3)}


def test_names_of_lvis_are_found_in_a_folder_of_any_format(dataset):
    (dataset.folder / "coco" / "annotations").mkdir()
    dataset.images.rename(dataset.folder / "coco" / "train2017")
    for image in dataset.content["images"]:
        image["coco_url"] = f"http://images.example.org/train2017/{image.pop('file_name')}"
    file = dataset.folder / "coco" / "annotations" / "lvis_v1_train.json"
    file.write_text(json.dumps(dataset.content))
    convert_any(ToShards(folder=dataset.folder / "coco", out=dataset.folder / "any", processes=1))
    truth = ShardSet.open(dataset.folder / "any" / "train").ground_truth()
    assert {image["file_name"] for image in truth["images"]} == {f"train2017/{i}.jpg" for i in (1, 2, 3)}


def test_what_is_irregular_leaves_good_entries_as_they_are(dataset):
    """The third image is as it was, byte for byte; so is a set without anything irregular."""
    whole = dataset.convert()
    assert (whole.manifest["report"], "first" in whole.manifest) == ({}, False)
    good = whole.read_annotation(whole.index.image_id.tolist().index(3))
    dataset.change(area=-1, ignore=1)
    dataset.out = dataset.folder / "second"
    shards = dataset.convert()
    assert shards.read_annotation(shards.index.image_id.tolist().index(3)) == good
    assert shards.index.image_id.tolist() == whole.index.image_id.tolist()


def test_a_jpeg_with_extraneous_bytes_is_converted_verified_and_read(dataset):
    file = dataset.images / "2.jpg"
    pixels = np.asarray(Image.open(file).convert("RGB"))
    data = file.read_bytes()
    file.write_bytes(data[:-2] + b"0123456789" * 20 + data[-2:])
    shards = dataset.convert()
    verify(Verification(folder=dataset.out, decode=True))
    np.testing.assert_array_equal(load_image(shards, shards.index.image_id.tolist().index(2)), pixels)
    at = len(data) // 2
    file.write_bytes(data[:at] + bytes(len(data) - at - 2) + data[-2:])
    dataset.out = dataset.folder / "second"
    with pytest.raises(DataError, match=r"2\.jpg \(image 2\) is no readable jpg image"):
        dataset.convert()
    dataset.out = dataset.folder / "third"
    dataset.convert(decode=False)
    with pytest.raises(DataError, match="sample 000000000002 is no readable jpg image"):
        verify(Verification(folder=dataset.out, decode=True))
