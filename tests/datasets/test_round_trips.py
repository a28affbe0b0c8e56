"""A random dataset written in any layout comes back with the same images, classes and boxes."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.datasets import open_dataset, pack_split
from data_prep.packing.settings import Packing
from qdet.data.shards.shard_set import ShardSet
from tests.support.dataset_writers import WRITERS, Picture, image_bytes

NAMES = ["traffic light", "Ä", "no", "7", "a/b & <c>"]


@st.composite
def pictures(draw, split: str):
    size = draw(st.sampled_from([(17, 23), (200, 100), (64, 64), (1, 1)]))
    objects = []
    for _ in range(draw(st.integers(0, 3))):
        xs = sorted(draw(st.lists(st.integers(0, 4 * size[0]), min_size=2, max_size=2, unique=True)))
        ys = sorted(draw(st.lists(st.integers(0, 4 * size[1]), min_size=2, max_size=2, unique=True)))
        box = (xs[0] / 4, ys[0] / 4, xs[1] / 4, ys[1] / 4)
        objects.append((draw(st.sampled_from(NAMES)), box))
    stem = draw(st.sampled_from(["IMG 1", "b.c", "0007", "ünï", "x_jpg.rf.0a1b", "train"]))
    kind = draw(st.sampled_from(["png", "jpg"]))
    return Picture(f"{split}{stem}", size, tuple(objects), kind)


@st.composite
def datasets(draw):
    """Splits whose classes are all in `train`, the only thing that formats without a list of classes need."""
    every = Picture("every", (64, 64), tuple((name, (1.0, 2.0, 3.0, 4.0)) for name in NAMES))
    splits = {"train": [every, *draw(st.lists(pictures("t"), max_size=3, unique_by=lambda p: p.stem))]}
    for split in ("val", "test"):
        if draw(st.booleans()):
            splits[split] = draw(
                st.lists(pictures(split), min_size=1, max_size=3, unique_by=lambda p: p.stem)
            )
    return splits


def objects_of(annotations) -> dict:
    """Boxes by the name of the image: class and corners, sorted."""
    import json

    names = dict(zip(annotations.categories.ids, annotations.categories.names, strict=True))
    found = {}
    for image in annotations.images:
        columns = json.loads(image.annotation)
        boxes = [
            (names[i], x, y, x + w, y + h)
            for i, (x, y, w, h) in zip(columns["category_ids"], columns["boxes_xywh"], strict=True)
        ]
        found[Path(image.file_name).name] = ((image.width, image.height), sorted(boxes))
    return found


@pytest.mark.parametrize("layout", WRITERS)
@settings(max_examples=12)
@given(splits=datasets())
def test_a_dataset_comes_back_as_it_was_written(layout, splits):
    kind, write = WRITERS[layout]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "data"
        write(root, splits, NAMES)
        dataset = open_dataset(root)
        assert dataset.format == kind
        assert set(dataset.splits) == set(splits)
        assert sorted(dataset.names) == sorted(NAMES)
        for split, expected in splits.items():
            check(dataset.splits[split].annotations, expected)


def check(annotations, expected) -> None:
    found = objects_of(annotations)
    assert set(found) == {picture.file for picture in expected}
    for picture in expected:
        size, boxes = found[picture.file]
        assert size == picture.size_wh
        wanted = sorted((label, *box) for label, box in picture.objects)
        assert [label for label, *_ in boxes] == [label for label, *_ in wanted]
        np.testing.assert_allclose(
            np.array([box for _, *box in boxes]), np.array([box for _, *box in wanted]), atol=1e-6
        )
    assert not {name for name in annotations.report if name.startswith("dropped")}


@pytest.mark.parametrize("layout", WRITERS)
def test_shards_hold_the_bytes_of_the_images_and_the_classes(layout, tmp_path):
    kinds = ("png", "jpg")
    train = [Picture(f"i{k}", (40, 30), (("b", (1, 2, 30.5, 20)),), kinds[k % 2]) for k in range(5)]
    train.append(Picture("last", (40, 30), (("a", (0, 0, 40, 30)),)))
    WRITERS[layout][1](tmp_path / "data", {"train": train}, ["a", "b"])
    split = open_dataset(tmp_path / "data").splits["train"]
    out = pack_split(split, tmp_path / "shards", Packing(processes=1))
    assert out == tmp_path / "shards"
    shards = ShardSet.open(out)
    assert shards.categories.names == ("a", "b")
    assert len(shards) == len(split) == 6
    for row in range(6):
        annotation = shards.read_annotation(row)
        kind = annotation["file_name"].rpartition(".")[2]
        assert shards.read_image(row) == image_bytes((40, 30), kind)
