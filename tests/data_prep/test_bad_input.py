"""Bad datasets: an error that names the file and the image, or a counted drop."""

import json
import shutil

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from data_prep.coco_to_shards import Conversion, convert
from qdet.data.shards.shard_set import ShardSet
from qdet.errors import DataError


@pytest.fixture
def dataset(make_coco, tmp_path):
    """A folder, its annotations to change, and a function that converts them."""
    root, content = make_coco(6)

    def run(**settings):
        (root / "annotations" / "instances_train.json").write_text(json.dumps(content))
        return convert(Conversion(coco=root, split="train", out=tmp_path / "out", processes=1, **settings))

    return root, content, run


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "does not exist; name the annotation file with --annotations"),
        ("", "is empty"),
        ("{'a': 1}", "is not JSON"),
        ("[1, 2]", "no list `images`"),
        ('{"images": [], "categories": []}', "no list `annotations`"),
        ('{"images": [], "annotations": [], "categories": []}', "has no categories"),
        ('{"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}]}', "lists no images"),
    ],
)
def test_invalid_annotation_files(dataset, tmp_path, text, message):
    root, _, _ = dataset
    file = root / "annotations" / "instances_train.json"
    file.unlink()
    if text is not None:
        file.write_text(text)
    with pytest.raises(DataError, match=message) as raised:
        convert(Conversion(coco=root, split="train", out=tmp_path / "out"))
    assert str(file) in str(raised.value)


def change(path, value):
    """A function that sets one entry of the annotation dictionary."""

    def changed(content):
        here = content
        for name in path[:-1]:
            here = here[name]
        here[path[-1]] = value

    return changed


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (change(("images", 1, "id"), 10), "lists image id 10 more than once"),
        (change(("images", 1, "file_name"), "image 0.v1.jpg"), "images 10 and 11 are both image 0"),
        (change(("images", 1, "id"), "x"), "image number 2 needs an integer `id`, got 'x'"),
        (change(("images", 1, "id"), -4), "ids must be 0 or more"),
        (change(("images", 1, "width"), "wide"), "image 11 needs an integer `width`, got 'wide'"),
        (change(("images", 1, "height"), 0), "sides must be 1 to 65535"),
        (change(("images", 1, "file_name"), None), "image 11 has no file_name"),
        (change(("annotations", 1, "id"), 1), "annotation id 1 more than once; --renumber"),
        (change(("annotations", 1, "id"), 0), "has id 0, .*; --renumber"),
        (change(("annotations", 1, "id"), None), "needs an integer `id`, got None; --renumber"),
        (change(("annotations", 1, "image_id"), 99), "annotation 2 is of image 99, which is not listed"),
        (change(("annotations", 1, "category_id"), 5), "image 12 has the unknown category 5"),
        (change(("categories", 1, "id"), 7), "more than one category of id 7"),
        (change(("categories", 1, "name"), "b"), "more than one category of name 'b'.*--merge-categories"),
        (change(("categories", 1), {"name": "x"}), "needs an integer `id` and a `name`"),
    ],
)
def test_mistakes_in_annotations_are_named(dataset, mistake, message, tmp_path):
    _, content, run = dataset
    mistake(content)
    with pytest.raises(DataError, match=message) as raised:
        run()
    assert "instances_train.json" in str(raised.value)
    assert not (tmp_path / "out").exists()


def test_renumbering_repairs_annotation_ids(dataset, tmp_path):
    _, content, run = dataset
    for annotation in content["annotations"]:
        annotation["id"] = 0
    run(renumber=True)
    truth = ShardSet.open(tmp_path / "out").ground_truth()
    assert sorted(a["id"] for a in truth["annotations"]) == list(range(1, len(content["annotations"]) + 1))


def test_boxes_are_dropped_or_clipped_and_counted(dataset, tmp_path):
    _, content, run = dataset
    image = content["images"][0]  # 60 wide, 40 high, no objects yet
    bad = [
        [5, 5, 0, 4],
        [5, 5, 4, -1],
        [float("nan"), 0, 5, 5],
        [0, 0, float("inf"), 5],
        [70, 5, 5, 5],
        [-9, 5, 5, 5],
        [1, 2, 3],
        "box",
        [50, 30, 20, 20],
        [-5, -5, 20, 20],
        [1, 1, 5, 5],
    ]
    for k, box in enumerate(bad):
        content["annotations"].append({"id": 100 + k, "image_id": 10, "category_id": 3, "bbox": box})
    report = run()["report"]
    assert report == {
        "area_filled_in": 3,
        "clipped": 2,
        "dropped_not_finite": 2,
        "dropped_outside_image": 2,
        "dropped_unreadable_box": 2,
        "dropped_zero_area": 2,
    }
    shards = ShardSet.open(tmp_path / "out")
    truth = [a for a in shards.ground_truth()["annotations"] if a["image_id"] == image["id"]]
    assert [a["bbox"] for a in truth] == [[50, 30, 20, 20], [-5, -5, 20, 20], [1, 1, 5, 5]]  # as annotated
    from qdet.data.augment import AugmentConfig
    from qdet.data.loading.planned_stream import EvalStream
    from qdet.data.loading.stream_config import StreamConfig

    (batch,) = EvalStream(shards, AugmentConfig(sizes=(40,), max_size=64), StreamConfig(batch_size=6))
    boxes = batch.targets.per_image()[batch.image_ids.tolist().index(10)][0]
    assert boxes.tolist() == [[50, 30, 60, 40], [0, 0, 15, 15], [1, 1, 6, 6]]  # clipped when read


def test_missing_images_are_listed_before_anything_is_written(dataset, tmp_path):
    root, content, run = dataset
    for image in content["images"][:2]:
        (root / "train" / image["file_name"]).unlink()
    with pytest.raises(DataError, match=r"lists 2 images that are not in .*image 0\.v1\.jpg \(image 10\)"):
        run()
    assert not (tmp_path / "out").exists()


def test_a_missing_folder_of_images_is_named(dataset):
    root, _, run = dataset
    shutil.move(root / "train", root / "elsewhere")
    with pytest.raises(DataError, match="train does not exist; name the folder of the images with --images"):
        run()


def test_every_bad_image_of_a_shard_is_listed_and_the_shard_not_written(dataset, tmp_path):
    root, content, run = dataset
    first, second, third, fourth = (root / "train" / image["file_name"] for image in content["images"][:4])
    first.write_bytes(first.read_bytes()[:-200])
    second.write_bytes(b"")
    third.write_bytes(b"GIF89a nonsense")
    content["images"][3]["width"], content["images"][3]["height"] = 40, 60
    with pytest.raises(DataError) as raised:
        run()
    message = str(raised.value)
    assert f"{first} (image 10) is no readable jpg" in message
    assert f"{second} (image 11) is no JPEG" in message
    assert f"{third} (image 12) is no readable gif" in message
    assert (
        f"{fourth} (image 13) is 60x40 pixels, the annotation file says 40x60; width and height are swapped"
        in message
    )
    assert not list((tmp_path / "out").glob("*.tar"))


def test_a_wrong_size_is_not_blamed_on_exif(dataset):
    _, content, run = dataset
    content["images"][0]["width"] = 61
    with pytest.raises(DataError, match=r"is 60x40 pixels, the annotation file says 61x40$"):
        run()


def test_an_image_with_too_many_pixels_is_refused(dataset):
    _, _, run = dataset
    with pytest.raises(DataError, match="has 60x40 pixels, more than --max-pixels 2000"):
        run(max_pixels=2000)


def test_a_png_named_jpg_keeps_its_bytes_and_is_read(dataset, tmp_path):
    root, content, run = dataset
    pixels = np.random.default_rng(0).integers(0, 255, (40, 60, 3)).astype(np.uint8)
    file = root / "train" / content["images"][0]["file_name"]
    Image.fromarray(pixels).save(file, "PNG")
    run()
    shards = ShardSet.open(tmp_path / "out")
    row = shards.index.image_id.tolist().index(10)
    assert shards.read_image(row) == file.read_bytes()
    from qdet.data.loading.sample import load_image

    np.testing.assert_array_equal(load_image(shards, row), pixels)
    assert simplejpeg.is_jpeg(shards.read_image(row)) is False
