"""Names, ids and files as other tools write them: read, or refused in one line before anything is made."""

import gzip
import json
import subprocess
import sys
import unicodedata
from contextlib import suppress

import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.annotations.spellings import Spellings
from data_prep.coco_to_shards import Conversion, convert
from data_prep.to_shards import ToShards
from data_prep.to_shards import convert as convert_any
from qdet.data.files.json_text import load_json
from qdet.data.files.names import LARGEST_ID, clean_name
from qdet.data.shards.shard_set import ShardSet
from qdet.errors import DataError


@pytest.fixture
def dataset(make_coco, tmp_path):
    """A folder, its annotations to change, and a function that converts them, perhaps from other bytes."""
    root, content = make_coco(4)
    file = root / "annotations" / "instances_train.json"

    def run(data: bytes | None = None, **flags):
        file.write_bytes(json.dumps(content).encode() if data is None else data)
        return convert(Conversion(coco=root, split="train", out=tmp_path / "out", processes=1, **flags))

    return root, content, run


def truth_of(tmp_path):
    return ShardSet.open(tmp_path / "out").ground_truth()


@pytest.mark.parametrize(
    ("given", "clean"),
    [
        ("a\nb", "a b"),
        (" cat\t", "cat"),
        ("a\u2028b\r\n\x85c", "a b c"),
        ("[red]", "[red]"),
        ("caf\u00e9", "caf\u00e9"),
        ("\U0001f469\u200d\U0001f680", "\U0001f469\u200d\U0001f680"),
        (7, "7"),
        ("a\x00b", "a\\x00b"),
        ("a\x1b[31m", "a\\x1b[31m"),
        ("\x9b", "\\x9b"),
        ("\ud800", "\\ud800"),
    ],
)
def test_names_of_classes_are_cleaned_on_entry(dataset, tmp_path, given, clean):
    _, content, run = dataset
    content["categories"][0]["name"] = given
    run()
    assert clean in ShardSet.open(tmp_path / "out").categories.names


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("", "class with the empty name ''"),
        ("\n\t", "empty name"),
        (None, "class without a name: None"),
        (["a"], "class without a name"),
        ("x" * 100_000, "100,000 characters"),
    ],
)
def test_names_that_cannot_be_shown_are_refused(dataset, tmp_path, given, message):
    _, content, run = dataset
    content["categories"][0]["name"] = given
    with pytest.raises(DataError, match=message) as raised:
        run()
    said = str(raised.value)
    assert "instances_train.json" in said
    assert "\n" not in said
    assert len(said) < 500
    said.encode()
    assert not (tmp_path / "out").exists()


@given(st.text())
@settings(max_examples=200)
def test_a_cleaned_name_is_one_line_that_every_encoding_of_unicode_holds(name):
    try:
        cleaned = clean_name(name, where="here")
    except DataError:
        return
    assert cleaned
    assert len(cleaned.splitlines()) == 1
    assert not any(unicodedata.category(c) in ("Cc", "Cs") for c in cleaned)
    assert clean_name(cleaned, where="here") == cleaned


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-32", "gzip"])
def test_json_in_other_encodings_and_gzipped_is_read(dataset, tmp_path, encoding):
    _, content, run = dataset
    content["categories"][0]["name"] = "caf\u00e9"
    text = json.dumps(content, ensure_ascii=False)
    run(gzip.compress(text.encode(), mtime=0) if encoding == "gzip" else text.encode(encoding))
    assert "caf\u00e9" in ShardSet.open(tmp_path / "out").categories.names


def test_a_gzipped_file_of_that_name_is_read(dataset, tmp_path):
    root, content, _ = dataset
    file = root / "annotations" / "instances_train.json.gz"
    file.write_bytes(gzip.compress(json.dumps(content).encode(), mtime=0))
    images = root / "train"
    convert(Conversion(images=images, annotations=file, split="train", out=tmp_path / "out", processes=1))
    assert len(ShardSet.open(tmp_path / "out")) == 4


LATIN = '{"info": 1,\n"categories": [{"id": 1, "name": "caf\u00e9"}]}'.encode("latin-1")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (LATIN, r"is not UTF-8: byte 0xe9 at position 49 \(line 2\); save it as UTF-8"),
        (b'{"x": ' + b"[" * 100_000, "is nested too deeply|is not JSON"),
        (
            b'{"images": [], "annotations": [], "x": ' + b"[" * 10**5 + b"]" * 10**5 + b"}",
            "nested too deeply",
        ),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n",
            "Git LFS pointer.*git lfs pull",
        ),
        (gzip.compress(b"{}" * 999, mtime=0)[:-9], "gzipped and damaged"),
        (gzip.compress(b"{}" * 999, mtime=0)[:12] + b"x" * 30, "gzipped and damaged"),
        (b"PK\x03\x04....", "zip archive; unpack it"),
        (b"<!DOCTYPE html><html></html>", "is a web page"),
        (b"\xff\xfea", "UTF-16"),
    ],
)
def test_what_is_no_json_is_named(dataset, tmp_path, data, message):
    _, _, run = dataset
    with pytest.raises(DataError, match=message) as raised:
        run(data)
    assert "instances_train.json" in str(raised.value)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "out").exists()


@given(st.binary(max_size=60) | st.text(max_size=40).map(str.encode))
@settings(max_examples=300)
def test_any_bytes_are_json_or_an_error_of_ours(data):
    with suppress(DataError):
        load_json(data, where="FILE")


@pytest.mark.parametrize(
    ("name", "message"),
    [("a\x00b.jpg", r"image 10: its file_name has the character U\+0000"), ("a\ud800.jpg", r"U\+D800")],
)
def test_names_that_no_file_can_have_are_refused(dataset, tmp_path, name, message):
    _, content, run = dataset
    content["images"][0]["file_name"] = name
    with pytest.raises(DataError, match=message) as raised:
        run()
    str(raised.value).encode()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("field", ["image", "annotation", "category"])
def test_ids_beyond_64_bits_are_refused_before_any_shard_is_written(dataset, tmp_path, field):
    _, content, run = dataset
    lists = {"image": "images", "annotation": "annotations", "category": "categories"}
    content[lists[field]][0]["id"] = 2**63
    with pytest.raises(
        DataError, match=rf"instances_train.json: the {field} id 9223372036854775808 is beyond"
    ):
        run()
    assert not (tmp_path / "out").exists()


def test_the_largest_ids_are_kept(dataset, tmp_path):
    _, content, run = dataset
    images = {image["id"]: LARGEST_ID - k for k, image in enumerate(content["images"])}
    classes = {entry["id"]: LARGEST_ID - k for k, entry in enumerate(content["categories"])}
    for image in content["images"]:
        image["id"] = images[image["id"]]
    for entry in content["categories"]:
        entry["id"] = classes[entry["id"]]
    for one in content["annotations"]:
        one |= {"image_id": images[one["image_id"]], "category_id": classes[one["category_id"]]}
    run()
    found = truth_of(tmp_path)
    assert sorted(i["id"] for i in found["images"]) == sorted(images.values())
    assert {a["category_id"] for a in found["annotations"]} <= set(classes.values())


@pytest.mark.parametrize(
    ("listed", "stored"),
    [
        (unicodedata.normalize("NFC", "caf\u00e9.jpg"), unicodedata.normalize("NFD", "caf\u00e9.jpg")),
        (unicodedata.normalize("NFD", "caf\u00e9.jpg"), unicodedata.normalize("NFC", "caf\u00e9.jpg")),
        ("a/b.jpg", "a/b.jpg"),
        ("a\\b.jpg", "a/b.jpg"),
        ("./a//b.jpg", "a/b.jpg"),
        ("my%20photo.jpg", "my photo.jpg"),
        ("100%.jpg", "100%.jpg"),
        ("IMG_1.jpg", "IMG_1.JPG"),
    ],
)
def test_files_are_found_by_other_spellings_of_their_names(dataset, tmp_path, listed, stored):
    root, content, run = dataset
    place = root / "train" / stored
    place.parent.mkdir(exist_ok=True)
    (root / "train" / content["images"][1]["file_name"]).rename(place)
    content["images"][1]["file_name"] = listed
    manifest = run()
    other = 0 if (root / "train" / listed).exists() else 1
    assert manifest["report"].get("images_found_by_another_spelling", 0) == other
    assert listed in {image["file_name"] for image in truth_of(tmp_path)["images"]}


def test_a_file_is_never_taken_for_two_images_nor_one_of_two_files_for_an_image(dataset, tmp_path):
    root, content, run = dataset
    folder = root / "train"
    (folder / content["images"][0]["file_name"]).rename(folder / "A.jpg")
    content["images"][0]["file_name"] = "A.jpg"
    (folder / content["images"][1]["file_name"]).unlink()
    content["images"][1]["file_name"] = "a.jpg"
    with pytest.raises(DataError, match=r"not in .*: a.jpg \(image 11\); .* has A.jpg, which may be a.jpg"):
        run()
    assert Spellings(["X.jpg", "x.JPG"]).find("x.jpg") is None


def test_sizes_are_read_from_files_of_other_spellings(dataset, tmp_path):
    root, content, run = dataset
    image = content["images"][1]
    (root / "train" / image["file_name"]).rename(root / "train" / "A.JPG")
    size = image.pop("width"), image.pop("height")
    image["file_name"] = "a.jpg"
    run()
    found = {i["file_name"]: (i["width"], i["height"]) for i in truth_of(tmp_path)["images"]}
    assert found["a.jpg"] == size


def test_a_file_in_another_folder_is_shown(dataset):
    _, content, run = dataset
    name = content["images"][0]["file_name"]
    content["images"][0]["file_name"] = f"images/{name}"
    with pytest.raises(DataError, match=f"has {name}, which may be images/{name}"):
        run()


def test_panoptic_files_are_recognized(dataset):
    _, content, run = dataset
    content["annotations"] = [{"image_id": 10, "file_name": "1.png", "segments_info": [{"id": 3}]}]
    with pytest.raises(DataError, match=r"panoptic file.*instances_train2017.json"):
        run()


@pytest.mark.parametrize("way", ["coco_to_shards", "to_shards"])
def test_categories_of_one_name_are_merged_on_request(dataset, tmp_path, way):
    root, content, run = dataset
    kept = [dict(entry) for entry in content["categories"]]
    new = max(entry["id"] for entry in kept) + 1
    content["categories"].append({"id": new, "name": kept[0]["name"] + " "})
    content["annotations"][0]["category_id"] = new
    with pytest.raises(
        DataError, match=rf"more than one category of name .*\(ids .*{new}\); --merge-categories"
    ):
        run()
    if way == "to_shards":
        convert_any(ToShards(folder=root, out=tmp_path / "all", merge_categories=True, processes=1))
        opened = ShardSet.open(tmp_path / "all" / "train")
    else:
        assert run(merge_categories=True)["report"]["merged_categories"] == 1
        opened = ShardSet.open(tmp_path / "out")
    assert sorted(opened.categories.names) == sorted(entry["name"] for entry in kept)
    found = {a["category_id"] for a in opened.ground_truth()["annotations"]}
    assert new not in found
    assert kept[0]["id"] in found


def test_nothing_raises_in_an_ascii_terminal(tmp_path, make_coco):
    root, content = make_coco(2)
    content["categories"][0]["name"] = "caf\u00e9 \u732b"
    (root / "annotations" / "instances_train.json").write_text(json.dumps(content))
    (root / "train" / "\u732b.jpg").write_bytes(simplejpeg.encode_jpeg(_grey()))
    out = str(tmp_path / "out")
    script = (
        "from data_prep import coco_to_shards, inspect\n"
        f"coco_to_shards.main(['--coco', {str(root)!r}, '--split', 'train', '--out', {out!r}])\n"
        f"inspect.main([{out!r}, '--out', {str(tmp_path / 'i.png')!r}])\n"
        f"coco_to_shards.main(['--coco', {str(tmp_path / 'caf')!r} + chr(233), '--split', 'x', '--out', 'y'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={"PATH": "/usr/bin:/bin", "PYTHONIOENCODING": "ascii", "LC_ALL": "C", "HOME": str(tmp_path)},
        capture_output=True,
        check=False,
    )
    assert b"Traceback" not in done.stderr
    assert done.returncode == 1  # of the last command, whose folder is not there
    assert b"caf\\xe9 \\u732b" in done.stdout
    assert b"caf\\xe9" in done.stderr


def _grey():
    import numpy as np

    return np.zeros((8, 8, 3), np.uint8)


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"


@pytest.mark.parametrize("encode", [gzip.compress, lambda text: text.decode().encode("utf-16")])
@pytest.mark.parametrize("name", ["annotations/instances_train.json", "annotations/instances_train.json.gz"])
def test_datasets_of_gzipped_and_utf_16_files_are_recognized(dataset, tmp_path, name, encode):
    root, content, _ = dataset
    (root / "annotations" / "instances_train.json").unlink(missing_ok=True)
    (root / name).write_bytes(encode(json.dumps(content).encode()))
    convert_any(ToShards(folder=root, out=tmp_path / "out", processes=1))
    assert len(ShardSet.open(tmp_path / "out" / "train")) == 4


def test_a_dataset_of_pointers_says_how_to_fetch_it(dataset, tmp_path):
    root, content, run = dataset
    (root / "annotations" / "instances_train.json").write_bytes(POINTER)
    with pytest.raises(DataError, match=r"instances_train.json is a Git LFS pointer"):
        convert_any(ToShards(folder=root, out=tmp_path / "out", processes=1))
    for image in content["images"]:
        (root / "train" / image["file_name"]).write_bytes(POINTER)
    with pytest.raises(DataError, match=r"is a Git LFS pointer, .*git lfs pull"):
        run()
    (tmp_path / "x-000000.tar").write_bytes(POINTER)
    with pytest.raises(DataError, match=r"x-000000.tar is a Git LFS pointer, .*git lfs pull"):
        ShardSet.open(tmp_path / "x-000000.tar")
