"""Rendered scenes: reproducible, with exact boxes of what is visible, written once as a COCO dataset."""

import json
import subprocess
import sys
from itertools import pairwise

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from data_prep import synthetic
from data_prep.rendering import shapes
from data_prep.rendering.shapes import CLASSES, LEAST_VISIBLE, render
from data_prep.synthetic import SyntheticConfig, prepare
from qdet.errors import ConfigError, DataError

STREAMS = ("train", "val", "pretrain", "tune")
SMALL = {"train": 9, "val": 5, "size": 64, "seed": 3}


@pytest.fixture(scope="module")
def scenes():
    return [render(0, "tune", i) for i in range(200)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("rendered") / "coco"
    assert prepare(SyntheticConfig(out=out, workers=1, **SMALL))
    return out


def test_same_arguments_same_scene(scenes):
    again = render(0, "tune", 7)
    np.testing.assert_array_equal(again.image, scenes[7].image)
    np.testing.assert_array_equal(again.boxes_xyxy, scenes[7].boxes_xyxy)


def test_no_two_scenes_alike_over_streams_and_seeds():
    drawn = [render(s, name, i, 64).image.tobytes() for s in (0, 1) for name in STREAMS for i in range(25)]
    assert len(set(drawn)) == len(drawn)


def test_boxes_are_those_of_the_visible_pixels(scenes):
    for scene in scenes:
        assert len(scene.boxes_xyxy) == len(scene.labels)
        assert set(np.unique(scene.owners)) <= set(range(-1, len(scene.labels)))
        for i, box in enumerate(scene.boxes_xyxy):
            rows, columns = np.nonzero(scene.owners == i)
            np.testing.assert_array_equal(box, [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])


def test_objects_stay_visible(monkeypatch):
    """Recount from the rasterised masks: at least 55% of every object stays visible."""
    masks = []
    coverage = shapes._rasterise

    def spy(contours, stroke, size):
        masks.append(coverage(contours, stroke, size)[0] > 0.5)
        return coverage(contours, stroke, size)

    monkeypatch.setattr(shapes, "_rasterise", spy)
    seen = 0
    for index in range(60):
        masks.clear()
        scene = render(1, "tune", index)
        inside, whole = masks[::2], [m.sum() for m in masks[1::2]]  # drawn in the image, and in a larger one
        for i in range(len(scene.labels)):
            visible = scene.owners == i
            sources = [n for n, mask in enumerate(inside) if not (visible & ~mask).any()]
            assert any(visible.sum() >= LEAST_VISIBLE * whole[n] for n in sources)
            seen += 1
    assert seen > 100


def test_the_mix_of_counts_classes_and_sizes(scenes):
    counts = np.bincount([len(s.labels) for s in scenes], minlength=7)
    assert len(counts) == 7
    assert counts.min() > 0
    assert counts[0] >= 0.05 * len(scenes)
    labels = np.concatenate([s.labels for s in scenes])
    assert np.bincount(labels, minlength=len(CLASSES)).min() > 0.6 * len(labels) / len(CLASSES)
    boxes = np.concatenate([s.boxes_xyxy for s in scenes])
    sides = np.sqrt(np.prod(boxes[:, 2:] - boxes[:, :2], axis=1))
    assert np.percentile(sides, 10) < 20
    assert np.percentile(sides, 90) > 60
    hidden = sum(_overlap(a, b) for s in scenes for a, b in pairwise(s.boxes_xyxy))
    assert hidden > 20


def _overlap(a, b):
    return bool((np.minimum(a[2:], b[2:]) > np.maximum(a[:2], b[:2])).all())


def test_written_as_coco(folder):
    for split, count in (("train", 9), ("val", 5)):
        coco = COCO(str(folder / "annotations" / f"instances_{split}.json"))
        assert len(coco.imgs) == count
        assert [c["name"] for c in coco.cats.values()] == list(CLASSES)
        for i, entry in enumerate(coco.imgs.values()):
            image = cv2.imread(str(folder / split / entry["file_name"]))[..., ::-1]
            scene = render(3, split, i, 64)
            assert image.shape == (entry["height"], entry["width"], 3)
            assert np.abs(image.astype(int) - scene.image).mean() < 7  # the noise that JPEG loses
            found = coco.imgToAnns[entry["id"]]
            boxes = np.array([a["bbox"] for a in found]).reshape(-1, 4)
            boxes[:, 2:] += boxes[:, :2]
            np.testing.assert_array_equal(boxes, scene.boxes_xyxy)
            assert [a["category_id"] - 1 for a in found] == scene.labels.tolist()
            assert [a["area"] for a in found] == [(scene.owners == j).sum() for j in range(len(found))]


def test_number_of_workers_changes_nothing(folder, tmp_path):
    assert prepare(SyntheticConfig(out=tmp_path / "coco", workers=2, **SMALL))
    for file in folder.rglob("*.*"):
        assert (tmp_path / "coco" / file.relative_to(folder)).read_bytes() == file.read_bytes(), file.name


def test_finished_folder_is_left_alone(folder):
    before = {f: f.stat().st_mtime_ns for f in folder.rglob("*")}
    assert not prepare(SyntheticConfig(out=folder, workers=1, **SMALL))
    assert {f: f.stat().st_mtime_ns for f in folder.rglob("*")} == before


def test_interrupted_folder_is_finished(tmp_path, monkeypatch):
    config = SyntheticConfig(out=tmp_path / "coco", workers=1, **SMALL)

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(synthetic, "_write_split", stop)
        with pytest.raises(KeyboardInterrupt):
            prepare(config)
    assert not (config.out / "annotations").exists()
    assert prepare(config)
    assert not prepare(config)


def test_other_settings_say_what_differs(folder):
    with pytest.raises(DataError, match="size 64 instead of 128, train 9 instead of 10"):
        prepare(SyntheticConfig(out=folder, train=10, val=5, size=128, seed=3))


def test_a_folder_with_other_files_is_refused(tmp_path):
    (tmp_path / "annotations").mkdir()
    with pytest.raises(DataError, match="not rendered here"):
        prepare(SyntheticConfig(out=tmp_path))


def test_unreadable_marker_is_named(tmp_path):
    (tmp_path / "synthetic.json").write_text("{")
    with pytest.raises(DataError, match=r"synthetic\.json cannot be read"):
        prepare(SyntheticConfig(out=tmp_path))


def test_invalid_settings_are_refused_by_flag():
    with pytest.raises(ConfigError, match="--size must be at least 64, got 8"):
        SyntheticConfig(size=8)


def test_the_command_renders_and_refuses_in_one_line(folder):
    command = [sys.executable, "-m", "data_prep.synthetic", "--out", str(folder), "--workers", "1"]
    asked = [word for name, value in SMALL.items() for word in (f"--{name}", str(value))]
    done = subprocess.run([*command, *asked], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, f"{folder}: already rendered\n")
    failed = subprocess.run(command, capture_output=True, text=True, check=False)
    assert failed.returncode == 1
    assert failed.stderr.startswith("DataError: ")
    assert json.loads((folder / "synthetic.json").read_text())["complete"]
