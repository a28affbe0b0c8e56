"""Which images are in which split: by folders, lists and data.yaml, or held out by a hash of their names."""

import random
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.annotations.coco_file import AnnotationEntry, CocoFile, ImageEntry
from data_prep.datasets import open_dataset
from data_prep.datasets.labels import Part
from data_prep.datasets.splits import cut, split_named
from qdet.errors import ConfigError, DataError
from tests.support.dataset_writers import WRITERS, Picture, put, put_image, voc_xml, write_voc

BOX = (("a", (1.0, 1.0, 9.0, 9.0)),)


def pictures(prefix: str, count: int, objects=BOX) -> list[Picture]:
    return [Picture(f"{prefix}{k}", (20, 16), objects) for k in range(count)]


def sizes(dataset) -> dict:
    return {name: len(split) for name, split in dataset.splits.items()}


def names_in(split) -> set:
    return {Path(image.file_name).stem for image in split.annotations.images}


@pytest.mark.parametrize(
    ("word", "split"),
    [
        ("train2017", "train"),
        ("Validation", "val"),
        ("valid", "val"),
        ("instances_val2017", "val"),
        ("testing", "test"),
        ("test-dev", None),
        ("training_images", None),
        ("default", "train"),
    ],
)
def test_splits_are_recognized_by_their_names(word, split):
    assert split_named(word) == split


def test_trainval_counts_only_without_train_and_val(tmp_path):
    write_voc(tmp_path, {"trainval": pictures("x", 5), "test": pictures("t", 2)}, ["a"])
    assert sizes(open_dataset(tmp_path)) == {"train": 5, "test": 2}
    lists = tmp_path / "ImageSets" / "Main"
    put(lists / "train.txt", "x0\nx1\n")
    put(lists / "val.txt", "x2\n\n")
    put(lists / "a_train.txt", "x0 1\nx1 -1\n")  # VOC's lists of one class
    assert sizes(open_dataset(tmp_path)) == {"train": 2, "val": 1, "test": 2}


def test_ids_in_lists_may_have_folders_and_extensions(tmp_path):
    for name in ("day/x0", "day/x1", "night/x0"):
        put_image(tmp_path / "JPEGImages", Picture(name, (20, 16)))
        put(tmp_path / "Annotations" / f"{name}.xml", voc_xml(Picture(name, (20, 16), BOX)))
    put(tmp_path / "ImageSets" / "Main" / "train.txt", "day/x0\nnight/x0.png\n")
    split = open_dataset(tmp_path).splits["train"]
    assert [image.file_name for image in split.annotations.images] == [
        "JPEGImages/day/x0.png",
        "JPEGImages/night/x0.png",
    ]
    assert all(image.boxes == 1 for image in split.annotations.images)


@pytest.mark.parametrize(
    "entries",
    [
        "train: images/train\nval: images/val\n",
        "path: .\ntrain: [images/train]\nval:\n- images/val\n",
        "path: /home/someone/else\ntrain: images/train\nval: images/val\ntest:\n",
        "path: ../datasets/mine\ntrain: ../images/train\nval: ./images/val/\n",
        "train: train.list.txt\nval: images/val\n",
        "train: {root}/images/train\nval: {root}/images/val\ntest: null\n",
        "path: {root}/images\ntrain: train\nval: val\n",
    ],
)
def test_data_yaml_may_name_folders_lists_and_other_machines(entries, tmp_path):
    root = tmp_path / "mine"
    WRITERS["yolo"][1](root, {"train": pictures("x", 4), "val": pictures("v", 2)}, ["a"])
    put(root / "train.list.txt", "".join(f"./images/train/x{k}.png\n" for k in range(4)))
    put(root / "data.yaml", entries.format(root=root) + "names: [a]\n")
    assert sizes(open_dataset(root)) == {"train": 4, "val": 2}


def test_a_list_may_be_beside_the_images_it_lists(tmp_path):
    WRITERS["yolo"][1](tmp_path, {"train": pictures("x", 4), "val": pictures("v", 2)}, ["a"])
    put(tmp_path / "images" / "some.txt", "train/x0.png\n\ntrain/x3.png\n./train/x0.png\n")
    put(tmp_path / "data.yaml", "train: images/some.txt\nval: [images/val, images/some.txt]\nnames: [a]\n")
    dataset = open_dataset(tmp_path)
    assert names_in(dataset.splits["train"]) == {"x0", "x3"}
    assert names_in(dataset.splits["val"]) == {"x0", "x3", "v0", "v1"}


def test_a_missing_test_split_is_said_and_a_missing_val_split_an_error(tmp_path):
    WRITERS["yolo"][1](tmp_path, {"train": pictures("x", 3)}, ["a"])
    put(tmp_path / "data.yaml", "train: images/train\ntest: ../test/images\nnames: [a]\n")
    dataset = open_dataset(tmp_path)
    assert sizes(dataset) == {"train": 3}
    assert any("not there: test" in note for note in dataset.notes)
    put(tmp_path / "data.yaml", "train: images/train\nval: images/val\nnames: [a]\n")
    with pytest.raises(DataError, match=r"data\.yaml: `val` is 'images/val', and no image is there"):
        open_dataset(tmp_path)
    put(tmp_path / "data.yaml", "names: [a]\n")
    put(tmp_path / "train.txt", "images/train/x0.png\nimages/train/x0.png\n")
    assert sizes(open_dataset(tmp_path)) == {"train": 1}


def test_folders_without_data_yaml_entries_are_sorted_by_name(tmp_path):
    WRITERS["yolo"][1](tmp_path, {"train": pictures("x", 3), "val": pictures("v", 1)}, ["a"])
    put(tmp_path / "data.yaml", "names: [a]\n")
    put_image(tmp_path, Picture("labels", (9, 9)))
    dataset = open_dataset(tmp_path)
    assert sizes(dataset) == {"train": 3, "val": 1}
    assert dataset.notes["images in folders without any label, left out"] == 1
    put(tmp_path / "labels.txt", "0 0.5 0.5 0.1 0.1\n")
    assert open_dataset(tmp_path).notes["images outside of the splits' folders, left out"] == 1


@pytest.mark.parametrize("layout", ["yolo", "voc"])
def test_folders_of_masks_and_drawings_are_left_out(layout, tmp_path):
    WRITERS[layout][1](tmp_path, {"train": pictures("x", 3)}, ["a"])
    shutil.rmtree(tmp_path / "ImageSets", ignore_errors=True)
    put(tmp_path / "data.yaml", "names: [a]\n" if layout == "yolo" else "version: 1\n")
    for name in ("masks/x0", "runs/train/x1"):
        put_image(tmp_path, Picture(name, (20, 16)))
    dataset = open_dataset(tmp_path)
    assert sizes(dataset) == {"train": 3}
    assert dataset.notes == {"images in folders without any label, left out": 2}


def test_labelimg_has_classes_txt_and_no_splits(tmp_path):
    WRITERS["darknet"][1](tmp_path / "a", {"train": pictures("x", 3)}, ["a"])
    (tmp_path / "a" / "obj_train_data" / "train").rename(tmp_path / "flat")
    put(tmp_path / "flat" / "classes.txt", "a\n")
    dataset = open_dataset(tmp_path / "flat")
    assert (dataset.format, sizes(dataset), dataset.names) == ("yolo", {"train": 3}, ("a",))
    assert dataset.notes == {}


def test_a_folder_with_nothing_but_a_folder_is_entered(tmp_path):
    write_voc(tmp_path / "zip" / "export", {"train": pictures("x", 2)}, ["a"])
    put(tmp_path / "zip" / "__MACOSX" / "._x.xml", "no")
    put(tmp_path / "zip" / ".DS_Store", "no")
    assert sizes(open_dataset(tmp_path / "zip")) == {"train": 2}


def test_val_may_be_another_folder(tmp_path):
    for layout in ("voc", "yolo", "labelme"):
        root = tmp_path / layout
        WRITERS[layout][1](root, {"train": pictures("x", 3, (*BOX, ("b", (0.0, 0.0, 5.0, 5.0))))}, ["a", "b"])
        other = root.with_name(f"{layout} val")
        WRITERS[layout][1](other, {"train": pictures("y", 2, (("b", (0.0, 0.0, 5.0, 5.0)),))}, ["a", "b"])
        dataset = open_dataset(root, val=other)
        assert sizes(dataset) == {"train": 3, "val": 2}
        val = dataset.splits["val"]
        assert val.images_folder == other
        assert val.annotations.categories == dataset.splits["train"].annotations.categories
        assert all(b'"category_ids":[2]' in i.annotation for i in val.annotations.images) == (
            layout != "yolo"
        )


def test_val_of_yolo_may_be_a_folder_without_names(tmp_path):
    WRITERS["yolo of Roboflow"][1](
        tmp_path, {"train": pictures("x", 3), "val": pictures("v", 2)}, ["zebra", "a"]
    )
    put(tmp_path / "data.yaml", "train: train/images\nnames: [zebra, a]\n")
    shutil.move(tmp_path / "valid", tmp_path.with_name(tmp_path.name + " elsewhere"))
    dataset = open_dataset(tmp_path, val=tmp_path.with_name(tmp_path.name + " elsewhere"))
    assert sizes(dataset) == {"train": 3, "val": 2}
    assert dataset.names == ("zebra", "a")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"val_share": 0.1, "val": "x"}, "give one of them"),
        ({"val_share": 0.0}, "--val-share must be above 0"),
        ({"val_share": 1.0}, "--val-share must be above 0"),
        ({"val_share": 0.5}, "has a val split of 2 images; leave out"),
        ({"format": "kitti"}, "--format must be one of coco, yolo"),
    ],
)
def test_flags_that_cannot_work_are_named(given, said, tmp_path):
    write_voc(tmp_path, {"train": pictures("x", 3), "val": pictures("v", 2)}, ["a"])
    with pytest.raises(ConfigError, match=said):
        open_dataset(tmp_path, **given)


def part_of(names: list[str]) -> Part:
    images = [ImageEntry(k, name, 10, 10) for k, name in enumerate(names, start=1)]
    annotations = [AnnotationEntry(k, k, 1, (0, 0, 1, 1)) for k in range(1, len(names) + 1)]
    content = CocoFile(images, annotations, [{"id": 1, "name": "a"}])
    return Part(Path("x"), Path("x"), content, declared=True)


file_names = st.lists(st.text(min_size=1, max_size=8), min_size=8, max_size=60, unique=True)


@given(file_names, st.floats(0.05, 0.95), st.integers(0, 99))
def test_a_held_out_image_stays_so_in_any_order_and_company(names, share, seed):
    part = part_of(names)
    train, val = cut(part, share)
    held = {i.file_name for i in val.content.images}
    kept = {i.file_name for i in train.content.images}
    assert held | kept == set(names)
    assert held
    assert kept
    assert not held & kept
    for side in (train, val):
        ids = {image.id for image in side.content.images}
        assert {one.image_id for one in side.content.annotations} == ids
    shuffled = random.Random(seed).sample(names, len(names))
    again = {i.file_name for i in cut(part_of(shuffled), share)[1].content.images}
    assert again == held
    if min(len(held), len(kept)) > 1:  # else an image had to be moved so that both have one
        more = {
            i.file_name
            for i in cut(part_of([*names, *(f"more {k}" for k in range(50))]), share)[1].content.images
        }
        assert more & set(names) == held


def test_a_share_is_about_that_share():
    held = cut(part_of([f"{k:05d}.jpg" for k in range(5000)]), 0.1)[1].content.images
    assert 450 < len(held) < 550  # five standard deviations are 106


def test_augmented_copies_of_a_photo_stay_together():
    names = [f"photo{k}_jpg.rf.{copy:08x}.jpg" for k in range(40) for copy in (k * 7 + 1, k * 13 + 2, k + 3)]
    train, val = (
        {i.file_name.split("_jpg")[0] for i in side.content.images} for side in cut(part_of(names), 0.3)
    )
    assert val
    assert not train & val


def test_one_image_cannot_be_divided():
    with pytest.raises(DataError, match="has one image"):
        cut(part_of(["a.jpg"]), 0.5)
    assert [len(side.content.images) for side in cut(part_of(["a.jpg", "b.jpg"]), 0.001)] == [1, 1]


def test_the_held_out_images_are_packed_like_others(tmp_path):
    write_voc(tmp_path, {"train": pictures("x", 40)}, ["a"])
    dataset = open_dataset(tmp_path, val_share=0.25)
    assert sum(sizes(dataset).values()) == 40
    assert 2 < sizes(dataset)["val"] < 20
    for split in dataset.splits.values():
        assert split.annotations.listed == {"images": len(split), "boxes": len(split)}


def test_classes_that_differ_are_an_error_listing_both_sides(tmp_path):
    WRITERS["coco"][1](tmp_path / "a", {"train": pictures("x", 2)}, ["a", "dog"])
    WRITERS["coco"][1](tmp_path / "b", {"val": pictures("x", 2)}, ["a", "Dog"])
    shutil.copytree(tmp_path / "b", tmp_path / "a", dirs_exist_ok=True)
    with pytest.raises(DataError) as raised:
        open_dataset(tmp_path / "a")
    said = str(raised.value)
    assert "instances_train.json: 'a', 'dog')" in said
    assert "instances_val.json: 'a', 'Dog')" in said
    assert "only train has 'dog'; only val has 'Dog'" in said


def test_a_class_that_only_val_has_is_an_error_and_one_that_val_lacks_is_not(tmp_path):
    both = (*BOX, ("b", (0.0, 0.0, 5.0, 5.0)))
    write_voc(tmp_path / "fine", {"train": pictures("x", 2, both), "val": pictures("v", 2)}, [])
    assert open_dataset(tmp_path / "fine").names == ("a", "b")
    write_voc(tmp_path / "bad", {"train": pictures("x", 2), "val": pictures("v", 2, both)}, [])
    with pytest.raises(DataError, match="do not have the same classes: only val has 'b'"):
        open_dataset(tmp_path / "bad")


def test_the_same_classes_under_other_numbers_are_an_error(tmp_path):
    WRITERS["coco"][1](tmp_path / "a", {"train": pictures("x", 2)}, ["a", "b"])
    WRITERS["coco"][1](tmp_path / "b", {"val": pictures("x", 2)}, ["b", "a"])
    shutil.copytree(tmp_path / "b", tmp_path / "a", dirs_exist_ok=True)
    with pytest.raises(DataError, match="1 a, 2 b in train, 1 b, 2 a in val"):
        open_dataset(tmp_path / "a")


def test_the_order_of_classes_follows_the_names_not_the_files(tmp_path):
    write_voc(
        tmp_path / "a", {"train": [Picture("1", (9, 9), (("z", (0, 0, 5, 5)),)), *pictures("x", 1)]}, []
    )
    write_voc(
        tmp_path / "b", {"train": [*pictures("0", 1), Picture("1", (9, 9), (("z", (0, 0, 5, 5)),))]}, []
    )
    assert open_dataset(tmp_path / "a").names == open_dataset(tmp_path / "b").names == ("a", "z")


def test_two_folders_of_one_split_are_both_read(tmp_path):
    train = pictures("x", 2)
    WRITERS["labelme"][1](tmp_path, {"train": train, "val": pictures("v", 1), "valid": pictures("w", 1)}, [])
    assert sizes(open_dataset(tmp_path)) == {"train": 2, "val": 2}
    WRITERS["coco"][1](
        tmp_path / "c", {"train": train, "train2017": [replace(p, stem="n" + p.stem) for p in train]}, ["a"]
    )
    with pytest.raises(DataError, match="has two annotation files of train"):
        open_dataset(tmp_path / "c")
