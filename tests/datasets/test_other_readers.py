"""What other readers make of the same files: supervision's, a literal one, and our own COCO conversion."""

import hashlib
import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import supervision as sv

from data_prep import coco_to_shards, to_shards
from data_prep.datasets import open_dataset, pack_split
from data_prep.packing.settings import Packing
from qdet.data.shards.shard_set import ShardSet
from qdet.evaluation.coco import evaluate
from qdet.evaluation.rows import DetectionRows
from tests.support.dataset_writers import WRITERS, Picture, put, put_image

NAMES = ["ant", "bee", "cat"]


@pytest.fixture(scope="module")
def random_pictures():
    rng = np.random.default_rng(3)
    found = []
    for k in range(12):
        w, h = rng.integers(20, 400, 2).tolist()
        objects = []
        for _ in range(k % 5):
            x0, y0 = rng.uniform(0, (w - 9, h - 9)).round(2).tolist()
            x1, y1 = rng.uniform((x0 + 2, y0 + 2), (w, h)).round(2).tolist()
            objects.append((NAMES[int(rng.integers(3))], (x0, y0, x1, y1)))
        found.append(Picture(f"p{k:02d}", (w, h), tuple(objects), ("png", "jpg")[k % 2]))
    found.append(Picture("all", (50, 50), tuple((name, (1.0, 1.0, 9.0, 9.0)) for name in NAMES)))
    return found


def ours(root: Path, split: str = "train") -> dict:
    """Boxes by image and class, as corners."""
    annotations = open_dataset(root).splits[split].annotations
    names = dict(zip(annotations.categories.ids, annotations.categories.names, strict=True))
    found = {}
    for image in annotations.images:
        columns = json.loads(image.annotation)
        boxes = np.array(columns["boxes_xywh"], float).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        found[Path(image.file_name).name] = [
            (names[i], *box) for i, box in zip(columns["category_ids"], boxes.tolist(), strict=True)
        ]
    return found


def theirs(dataset: sv.DetectionDataset) -> dict:
    return {
        Path(path).name: [
            (dataset.classes[i], *box)
            for i, box in zip(
                dataset.annotations[path].class_id.tolist(),
                dataset.annotations[path].xyxy.tolist(),
                strict=True,
            )
        ]
        if len(dataset.annotations[path])
        else []
        for path in dataset.image_paths
    }


def check_equal(found: dict, expected: dict) -> None:
    assert set(found) == set(expected)
    for name, boxes in expected.items():
        assert [label for label, *_ in found[name]] == [label for label, *_ in boxes]
        corners = [np.array([box for _, *box in side]).reshape(-1, 4) for side in (found[name], boxes)]
        np.testing.assert_allclose(*corners, atol=2e-3)  # float32 of numbers up to 400


READERS = {
    "coco": lambda root: sv.DetectionDataset.from_coco(
        str(root / "train"), str(root / "annotations" / "instances_train.json")
    ),
    "yolo": lambda root: sv.DetectionDataset.from_yolo(
        str(root / "images" / "train"), str(root / "labels" / "train"), str(root / "data.yaml")
    ),
    "voc": lambda root: sv.DetectionDataset.from_pascal_voc(
        str(root / "JPEGImages"), str(root / "Annotations")
    ),
    "labelme": lambda root: sv.DetectionDataset.from_labelme(str(root / "train"), str(root / "train")),
    "createml": lambda root: sv.DetectionDataset.from_createml(
        str(root / "train"), str(root / "train" / "_annotations.createml.json")
    ),
}


@pytest.mark.parametrize("layout", READERS)
def test_supervision_reads_the_same_boxes(layout, random_pictures, tmp_path):
    WRITERS[layout][1](tmp_path, {"train": random_pictures}, NAMES)
    check_equal(ours(tmp_path), theirs(READERS[layout](tmp_path)))


@pytest.mark.parametrize("layout", ["yolo", "voc", "labelme", "createml", "coco"])
def test_what_supervision_writes_is_read(layout, random_pictures, tmp_path):
    WRITERS["coco"][1](tmp_path / "in", {"train": random_pictures}, NAMES)
    dataset, out = READERS["coco"](tmp_path / "in"), tmp_path / "out"
    if layout == "yolo":
        dataset.as_yolo(str(out / "images"), str(out / "labels"), str(out / "data.yaml"))
    elif layout == "voc":
        dataset.as_pascal_voc(str(out / "images"), str(out / "annotations"))
    elif layout == "labelme":
        dataset.as_labelme(str(out / "data"), str(out / "data"))
    elif layout == "createml":
        dataset.as_createml(str(out / "data"), str(out / "data" / "a.json"))
    else:
        dataset.as_coco(str(out / "images"), str(out / "annotations.json"))
    found, expected = ours(out), theirs(dataset)
    assert set(found) == set(expected)
    for name, boxes in expected.items():
        corners = [np.array([box for _, *box in side]).reshape(-1, 4) for side in (found[name], boxes)]
        rounding = 0.5 if layout == "voc" else 0.01  # whole pixels; five digits of a fraction
        np.testing.assert_allclose(*corners, atol=rounding)


def test_lines_of_polygons_and_poses_are_read_as_supervision_does(tmp_path):
    put_image(tmp_path / "images", Picture("a", (80, 40)))
    put(
        tmp_path / "labels" / "a.txt",
        "0 0.1 0.2 0.5 0.2 0.5 0.9 0.3 0.95\n"
        "1 0.5 0.5 0.2 0.2 0.77\n"
        "1 0.1 0.1 0.4 0.1 0.2 0.6 0.5\n"
        "1.0 0.5 0.5 0.2 0.2 0.1 0.1 2 0.2 0.2 2\n",
    )
    put(tmp_path / "data.yaml", "names: {0: a, 1: b}\nkpt_shape: [2, 3]\n")
    dataset = sv.DetectionDataset.from_yolo(
        str(tmp_path / "images"), str(tmp_path / "labels"), str(tmp_path / "data.yaml")
    )
    check_equal(ours(tmp_path), theirs(dataset))
    notes = open_dataset(tmp_path).notes
    assert notes == {"polygons, taken as the boxes around them": 2}


def test_labelme_shapes_are_read_as_supervision_does(tmp_path):
    picture = Picture("a", (80, 40))
    put_image(tmp_path, picture)
    shapes = [
        {"label": "b", "points": [[5, 6], [20, 8], [11, 30]], "shape_type": "polygon", "group_id": 1},
        {"label": "b", "points": [[50, 3], [60, 10]], "shape_type": "rectangle", "group_id": 1},
        {"label": "a", "points": [[50, 3], [60, 10]], "shape_type": "rectangle", "group_id": None},
        {"label": "a", "points": [[50, 3]], "shape_type": "point", "group_id": None},
    ]
    about = {"imagePath": "a.png", "imageHeight": 40, "imageWidth": 80}
    put(tmp_path / "a.json", json.dumps({"shapes": shapes} | about))
    with pytest.warns(UserWarning, match="unsupported LabelMe shape"):
        dataset = sv.DetectionDataset.from_labelme(str(tmp_path), str(tmp_path))
    check_equal(ours(tmp_path), theirs(dataset))
    notes = open_dataset(tmp_path).notes
    assert notes["points, lines and other shapes without a box, left out"] == 1
    assert notes["shapes joined to one object by their group_id"] == 2


def test_a_circle_is_the_box_around_it(tmp_path):
    put_image(tmp_path, Picture("a", (80, 40)))
    shapes = [{"label": "b", "points": [[30, 20], [33, 24]], "shape_type": "circle"}]
    put(tmp_path / "a.json", json.dumps({"shapes": shapes, "imagePath": "a.png"}))
    assert ours(tmp_path) == {"a.png": [("b", 25, 15, 35, 25)]}


def read_literally(root: Path, split: str) -> Counter:
    """Count boxes by class and corners, with regular expressions alone."""
    found = Counter()
    for name in (root / "ImageSets" / "Main" / f"{split}.txt").read_text().split():
        text = (root / "Annotations" / f"{name}.xml").read_text()
        for one in re.findall(r"<object>.*?</object>", text, flags=re.DOTALL):
            label = re.search(r"<name>(\w+)</name>", one)[1]
            x0, y0, x1, y1 = (
                int(re.search(rf"<{s}>(-?\d+)</{s}>", one)[1]) for s in ("xmin", "ymin", "xmax", "ymax")
            )
            found[name, label, x0, y0, x1, y1] += 1
    return found


def test_blood_cells_are_counted_as_a_literal_reading_counts_them(bccd_root, tmp_path):
    dataset = open_dataset(bccd_root)
    assert dataset.names == ("Platelets", "RBC", "WBC")
    assert {name: len(split) for name, split in dataset.splits.items()} == {
        "train": 205,
        "val": 87,
        "test": 72,
    }
    total = 0
    for name, split in dataset.splits.items():
        shards = ShardSet.open(pack_split(split, tmp_path / name, Packing(processes=1)))
        expected, found = read_literally(bccd_root, name), Counter()
        truth = shards.ground_truth()
        files = {image["id"]: Path(image["file_name"]).stem for image in truth["images"]}
        names = {one["id"]: one["name"] for one in truth["categories"]}
        for one in truth["annotations"]:
            x, y, w, h = one["bbox"]
            found[files[one["image_id"]], names[one["category_id"]], x + 1, y + 1, x + w, y + h] += 1
        assert found == expected
        total += found.total()
    assert total == 4888
    some = next(iter(truth["images"]))
    row = shards.index.image_id.tolist().index(some["id"])
    assert shards.read_image(row) == (bccd_root / some["file_name"]).read_bytes()


def test_supervision_reads_the_same_blood_cells(bccd_root):
    dataset = sv.DetectionDataset.from_pascal_voc(
        str(bccd_root / "JPEGImages"), str(bccd_root / "Annotations")
    )
    expected = theirs(dataset)
    for split in ("train", "val", "test"):
        found = ours(bccd_root, split)
        check_equal(found, {name: expected[name] for name in found})


def test_shards_of_a_coco_folder_are_those_of_coco_to_shards(coco_root, tmp_path):
    to_shards.convert(to_shards.ToShards(folder=coco_root, out=tmp_path / "ours", processes=1))
    for split, name in (("train", "train2017"), ("val", "val2017")):
        conversion = coco_to_shards.Conversion(
            images=coco_root / name,
            annotations=coco_root / "annotations" / f"instances_{name}.json",
            split=split,
            out=tmp_path / "theirs" / split,
            processes=1,
        )
        coco_to_shards.convert(conversion)
        assert digests(tmp_path / "ours" / split) == digests(tmp_path / "theirs" / split)


def digests(folder: Path) -> dict:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}


@pytest.mark.parametrize("layout", ["yolo", "voc", "hf in CSV"])
def test_perfect_detections_of_converted_shards_have_an_ap_of_one(layout, random_pictures, tmp_path):
    """Also of the class with the number 0, which COCO's own files do not have."""
    WRITERS[layout][1](tmp_path / "in", {"train": random_pictures}, NAMES)
    out = pack_split(open_dataset(tmp_path / "in").splits["train"], tmp_path / "out", Packing(processes=1))
    truth = ShardSet.open(out).ground_truth()
    every = truth["annotations"]
    rows = DetectionRows(
        image_ids=np.array([one["image_id"] for one in every]),
        category_ids=np.array([one["category_id"] for one in every]),
        boxes_xywh=np.array([one["bbox"] for one in every], float),
        scores=np.linspace(0.5, 0.9, len(every)),
        seen=np.array([image["id"] for image in truth["images"]]),
    )
    metrics = evaluate(truth, rows)
    assert metrics.AP == metrics.AR100 == 1
    assert set(metrics.per_class) == set(NAMES)
    assert all(value == 1 for value in metrics.per_class.values())
