"""What the check of a dataset finds: as often as a slow reading does, and nothing in clean data."""

import io
import json
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data_prep.datasets import open_dataset, pack_split
from data_prep.doctor import check_shards
from data_prep.doctor.duplicates import find_copies
from data_prep.doctor.fingerprints import find_near
from data_prep.doctor.labels import LabelTally
from data_prep.inspect import main
from data_prep.packing.settings import Packing
from qdet.data.shards.categories import Categories
from qdet.errors import ConfigError, DataError
from tests.support.dataset_writers import WRITERS, Picture, put, write_labelme

PACKING = Packing(processes=1)
CATEGORIES = Categories(names=("a", "b"), ids=(3, 7))


def pack(root: Path, out: Path, packing: Packing = PACKING) -> list[Path]:
    return [pack_split(split, out / name, packing) for name, split in open_dataset(root).splits.items()]


def found(*folders: Path, **settings) -> dict[str, int]:
    return {one.check: one.count for one in check_shards(folders, **settings)}


sides = st.sampled_from([0.5, 1.0, 7.0, 8.0, 9.0, 40.0, 99.0, 100.0, 300.0])
places = st.sampled_from([-5.0, -1.0, -0.5, 0.0, 3.0, 60.0])
objects = st.tuples(places, places, sides, sides, st.sampled_from([3, 7]), st.booleans())


@given(st.lists(st.lists(objects, max_size=5), min_size=1, max_size=6))
def test_labels_are_counted_as_one_by_one(images):
    tally, expected = (
        LabelTally(CATEGORIES),
        dict.fromkeys(("tiny", "whole", "border", "narrow", "same", "several"), 0),
    )
    for number, boxes in enumerate(images):
        tally.add(
            {
                "width": 100,
                "height": 80,
                "file_name": f"{number}.jpg",
                "boxes_xywh": [list(box[:4]) for box in boxes],
                "category_ids": [box[4] for box in boxes],
                "iscrowd": [int(box[5]) for box in boxes],
            }
        )
        single = [box for box in boxes if not box[5]]
        for k, (x, y, w, h, label, _) in enumerate(single):
            expected["tiny"] += w * h < 64
            expected["whole"] += w >= 99 and h >= 79.2
            expected["border"] += x < -1 or y < -1 or x + w > 101 or y + h > 81
            expected["narrow"] += w > 20 * h or h > 20 * w
            earlier = [other for other in single[:k] if other[:4] == (x, y, w, h)]
            repeated = any(other[4] == label for other in earlier)
            expected["same"] += repeated
            expected["several"] += bool(earlier) and not repeated
    names = (
        "tiny_boxes",
        "whole_image_boxes",
        "boxes_across_the_border",
        "narrow_boxes",
        "repeated_boxes",
        "boxes_of_several_classes",
    )
    counts = {one.check: one.count for one in tally.find("x")}
    assert [counts.get(name, 0) for name in names] == [
        count if count >= tally.objects.sum() / 100 else 0 for count in expected.values()
    ]
    assert tally.objects.sum() == sum(not box[5] for boxes in images for box in boxes)
    assert tally.crowds == sum(box[5] for boxes in images for box in boxes)
    assert tally.empty == sum(all(box[5] for box in boxes) for boxes in images)


def test_rare_and_absent_classes_are_named():
    tally = LabelTally(Categories(names=("car", "cat", "cow"), ids=(1, 2, 3)))
    for k in range(202):
        box = {"boxes_xywh": [[k % 7, 1, 30, 30]], "category_ids": [2 if k == 9 else 1], "iscrowd": [0]}
        tally.add({"width": 100, "height": 80, "file_name": f"{k}.jpg"} | box)
    findings = {one.check: one for one in tally.find("x")}
    assert findings["classes_without_boxes"].examples == ("cow",)
    assert "201 boxes of car: cat 1;" in findings["class_imbalance"].text


hashes = st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=12)
flips = st.lists(st.tuples(st.integers(0, 11), st.sets(st.integers(0, 63), max_size=6)), max_size=12)


@settings(max_examples=200)
@given(hashes, flips)
def test_near_hashes_are_those_of_all_pairs(base, flips):
    values = [*base, *(base[k % len(base)] ^ sum(1 << bit for bit in bits) for k, bits in flips)]
    expected = set()
    for i, j in combinations(range(len(values)), 2):
        near = (values[i] ^ values[j]).bit_count() <= 4
        firsts = values.index(values[i]) == i and (values.index(values[j]) == j or values[i] == values[j])
        if near and firsts:
            expected.add((i, j))
    thumbs = np.zeros((len(values), 8, 8), np.uint8)
    assert find_near(np.array(values, np.uint64), thumbs) == sorted(expected)


def test_near_hashes_of_pictures_of_other_brightness_are_other_pictures():
    thumbs = np.stack([np.full((8, 8), grey, np.uint8) for grey in (10, 15, 200)])
    assert find_near(np.array([5, 5, 5], np.uint64), thumbs) == [(0, 1)]


def test_copies_are_confirmed_byte_by_byte():
    def stub(crcs, contents):
        index = SimpleNamespace(image_crc32=np.array(crcs), image_length=np.array([3] * len(crcs)))
        return SimpleNamespace(index=index, read_image=lambda row: contents[row])

    one, other = stub([1, 1, 2, 1], [b"aaa", b"bbb", b"ccc", b"aaa"]), stub([1, 3], [b"bbb", b"ccc"])
    pairs = find_copies([one, other])
    assert [((a.owner, a.row), (b.owner, b.row)) for a, b in pairs] == [((0, 0), (0, 3)), ((0, 1), (1, 0))]


def photographs(coco_root: Path) -> list[Path]:
    return sorted(coco_root.glob("train2017/*.jpg"))[:40]


def write_photographs(root: Path, split: str, photos: dict[str, bytes]) -> None:
    for name, data in photos.items():
        put(root / split / name, data)
        with Image.open(io.BytesIO(data)) as image:
            w, h = image.size
        shape = {"label": "a", "points": [[1, 1], [w / 2, h / 2]], "shape_type": "rectangle"}
        text = json.dumps({"imagePath": name, "shapes": [shape], "imageWidth": w, "imageHeight": h})
        put(root / split / f"{Path(name).stem}.json", text)


def altered(data: bytes, scale: float, quality: int, kind: str = "JPEG") -> bytes:
    out = io.BytesIO()
    with Image.open(io.BytesIO(data)) as image:
        size = tuple(round(side * scale) for side in image.size)
        image.convert("RGB").resize(size).save(out, kind, quality=quality)
    return out.getvalue()


def test_recompressed_and_resized_photographs_are_found_and_no_others(coco_root, tmp_path):
    photos = {file.name: file.read_bytes() for file in photographs(coco_root)}
    names = list(photos)
    write_photographs(tmp_path / "in", "train", photos)
    changed = {f"smaller {n}": altered(photos[n], 0.6, 60) for n in names[:8]}
    changed |= {f"larger {n[:-4]}.png": altered(photos[n], 1.3, 0, "PNG") for n in names[8:12]}
    changed |= {f"same {n}": photos[n] for n in names[20:23]}
    write_photographs(tmp_path / "in", "val", changed)
    train, val = pack(tmp_path / "in", tmp_path / "out")
    findings = check_shards([train, val])
    counts = {one.check: one.count for one in findings}
    assert counts["copies_across_splits"] == 3
    assert counts["look_alikes_across_splits"] == 12
    assert not {"copies", "look_alikes"} & set(counts)
    pairs = next(one for one in findings if one.check == "look_alikes_across_splits").examples
    for pair in pairs:
        left, right = (Path(name.strip("'")).stem.rpartition(" ")[2] for name in pair.split(" = "))
        assert left == right
    assert "copies_across_splits" in found(train, val, pixels=False)
    assert "look_alikes_across_splits" not in found(train, val, pixels=False)
    assert found(train, pixels=True) == {}


def test_a_split_with_copies_is_told_apart_from_two(coco_root, tmp_path):
    photos = {file.name: file.read_bytes() for file in photographs(coco_root)[:5]}
    some = next(iter(photos.values()))
    write_photographs(tmp_path / "in", "train", photos | {"copy.jpg": some, "again.jpg": some})
    (train,) = pack(tmp_path / "in", tmp_path / "out")
    assert found(train) == {"copies": 2}


def test_two_blood_cells_of_train_and_val_are_one_view(bccd_root, tmp_path):
    findings = check_shards(pack(bccd_root, tmp_path))
    assert [(one.check, one.count) for one in findings] == [("look_alikes_across_splits", 1)]
    assert {"BloodImage_00037", "BloodImage_00038"} == {
        Path(name.strip("'")).stem for name in findings[0].examples[0].split(" = ")
    }


def write_damaged(tmp_path: Path) -> Path:
    train = [Picture("x0", (256, 256), (("a", (1.0, 1.0, 30.0, 30.0)),), "jpg")]
    write_labelme(tmp_path / "in", {"train": train}, [])
    noise = np.random.default_rng(0).integers(0, 255, (256, 256, 3)).astype(np.uint8)
    data = bytearray(simplejpeg.encode_jpeg(noise))
    for k in range(len(data) // 2, len(data) - 100, 97):
        data[k : k + 2] = b"\xff\xc4"
    (tmp_path / "in" / "train" / "x0.jpg").write_bytes(data)
    (shards,) = pack(tmp_path / "in", tmp_path / "out", replace(PACKING, decode=False))
    return shards


def test_images_that_do_not_decode_are_named(tmp_path):
    findings = check_shards([write_damaged(tmp_path)])
    bad = [one for one in findings if one.check == "unreadable_images"]
    assert len(bad) == 1
    assert "no readable jpg image" in bad[0].examples[0]


def test_classes_that_differ_are_found(tmp_path):
    for name, classes in (("one", ["a", "b"]), ("two", ["a", "c"])):
        box = (("a", (1.0, 1.0, 30.0, 30.0)),)
        WRITERS["coco"][1](tmp_path / name, {"train": [Picture(name, (60, 40), box)]}, classes)
        pack(tmp_path / name, tmp_path / f"{name} out")
    folders = (tmp_path / "one out" / "train", tmp_path / "two out" / "train")
    assert found(*folders, pixels=False)["classes_differ"] == 2


def test_the_command_prints_one_object_or_lines(bccd_root, tmp_path, capsys):
    folders = [str(folder) for folder in pack(bccd_root, tmp_path)]
    main([*folders, "--check", "--json"])
    said = json.loads(capsys.readouterr().out)
    assert [one["images"] for one in said["folders"]] == [205, 87, 72]
    assert sum(one["classes"]["RBC"]["objects"] for one in said["folders"]) == 4155
    assert [one["check"] for one in said["findings"]] == ["look_alikes_across_splits"]
    main([*folders, "--check"])
    assert f"warning: {folders[0]} and {folders[1]}: 1 pair of nearly identical" in capsys.readouterr().out
    main([folders[0], "--json", "--out", str(tmp_path / "x.png")])
    said = json.loads(capsys.readouterr().out)
    assert said["picture"] == str(tmp_path / "x.png")
    assert said["folders"][0]["objects"] == 2805
    main([folders[2], "--check"])
    assert "nothing suspicious" in capsys.readouterr().out


def test_nothing_to_check_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="give a folder of shards"):
        check_shards([])
    with pytest.raises(DataError, match="holds no shards"):
        check_shards([tmp_path])
    with pytest.raises(SystemExit):
        main(["a", "b"])
