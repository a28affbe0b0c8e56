"""Inspecting shards: counts equal the annotation file's, the picture shows the requested samples."""

import io
import json

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from data_prep.coco_to_shards import Conversion, convert
from data_prep.inspect import Inspection, inspect, main
from data_prep.wording import plural
from qdet.errors import ConfigError, DataError


@pytest.fixture
def dataset(make_coco, tmp_path):
    root, content = make_coco(12)
    convert(Conversion(coco=root, split="train", out=tmp_path / "shards", shard_megabytes=0.01, processes=1))
    return tmp_path, content


def test_counts_are_those_of_the_annotation_file(dataset):
    folder, content = dataset
    console = Console(file=io.StringIO(), width=200)
    inspection = Inspection(folder=folder / "shards", out=folder / "all.png")
    census = inspect(inspection, console=console)
    single = [a for a in content["annotations"] if not a["iscrowd"]]
    for k, category in enumerate((3, 7)):
        of_class = [a for a in single if a["category_id"] == category]
        assert census.objects[k] == len(of_class)
        assert census.images[k] == len({a["image_id"] for a in of_class})
    assert census.crowds == len(content["annotations"]) - len(single)
    assert sorted(census.areas.tolist()) == sorted(a["area"] for a in single)
    owners = [a["image_id"] for a in single]
    assert sorted(census.per_image.tolist()) == sorted(owners.count(i["id"]) for i in content["images"])
    said = console.file.getvalue()
    assert f"{len(single)} objects and {plural(census.crowds, 'crowd region')}" in said
    assert "a  " in said


def test_the_picture_shows_every_requested_sample(dataset):
    folder, _ = dataset
    heights = []
    for images in (1, 4, 12):
        out = folder / f"{images}.png"
        inspect(Inspection(folder=folder / "shards", out=out, images=images, size=100))
        with Image.open(out) as picture:
            assert picture.format == "PNG"
            assert picture.width >= 960
            heights.append(picture.height)
    assert heights == sorted(set(heights))
    again = folder / "again.png"
    inspect(Inspection(folder=folder / "shards", out=again, images=4, size=100))
    assert again.read_bytes() == (folder / "4.png").read_bytes()
    inspect(Inspection(folder=folder / "shards", out=again, images=4, size=100, seed=1))
    assert again.read_bytes() != (folder / "4.png").read_bytes()


def test_a_box_is_drawn_around_its_pixels(tmp_path):
    root = tmp_path / "coco"
    (root / "train").mkdir(parents=True)
    (root / "annotations").mkdir()
    pixels = np.zeros((100, 100, 3), np.uint8)
    Image.fromarray(pixels).save(root / "train" / "black.png")
    box = [20, 30, 60, 40]
    content = {
        "images": [{"id": 1, "file_name": "black.png", "width": 100, "height": 100}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": box, "area": 2400, "iscrowd": 0}],
        "categories": [{"id": 1, "name": "thing"}],
    }
    (root / "annotations" / "instances_train.json").write_text(json.dumps(content))
    convert(Conversion(coco=root, split="train", out=tmp_path / "shards", processes=1))
    inspect(Inspection(folder=tmp_path / "shards", out=tmp_path / "one.png", size=100))
    with Image.open(tmp_path / "one.png") as page:
        sheet = np.asarray(page.convert("RGB")).astype(int)
    left, top = 20, 56  # the sheet's margin, and below its title
    shown = sheet[top : top + 100, left : left + 100]
    coloured = shown.max(axis=2) > 60
    assert not coloured[35:65, 30:70].any()  # nothing inside the box
    assert coloured[69:71, 45:80].any(axis=0).all()  # its lower edge
    assert coloured[35:65, 19:22].any(axis=1).all()  # its left edge
    assert not coloured[:, :18].any()


def test_one_class_can_be_selected(dataset):
    folder, _ = dataset
    console = Console(file=io.StringIO(), width=200)
    inspection = Inspection(folder=folder / "shards", out=folder / "b.png", category="b")
    census = inspect(inspection, console=console)
    assert f"{census.images[1]} samples with their boxes" in console.file.getvalue()
    with pytest.raises(ConfigError, match="--category dog: no such class; the classes are a, b"):
        inspect(Inspection(folder=folder / "shards", out=folder / "b.png", category="dog"))


@pytest.mark.parametrize(
    ("wrong", "flag"), [({"images": 0}, "--images"), ({"size": 9}, "--size"), ({"out": "x.jpg"}, "--out")]
)
def test_invalid_settings_are_refused_by_flag(tmp_path, wrong, flag):
    from pathlib import Path

    settings = {name: Path(value) if name == "out" else value for name, value in wrong.items()}
    with pytest.raises(ConfigError, match=flag):
        Inspection(folder=tmp_path, **settings)


def test_the_command_writes_the_picture(dataset, capsys, monkeypatch):
    folder, _ = dataset
    monkeypatch.chdir(folder)
    main(["shards", "--images", "2"])
    assert "inspect.png: 2 samples" in capsys.readouterr().out
    assert (folder / "inspect.png").is_file()


def test_an_unwritable_folder_is_named(dataset):
    folder, _ = dataset
    with pytest.raises(DataError, match=r"nowhere.*(cannot be written|vanished)"):
        inspect(Inspection(folder=folder / "shards", out=folder / "nowhere" / "x.png"))
