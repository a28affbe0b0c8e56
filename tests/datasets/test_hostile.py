"""Datasets from strangers: nothing is run or fetched, and nothing outside of the folder is read."""

import json
import os
import stat
import sys
import zipfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep import to_shards
from data_prep.datasets import open_dataset, pack_split
from data_prep.datasets.files import parse_yaml
from data_prep.datasets.tree import list_tree
from data_prep.downloading.unpack import unpack
from data_prep.packing.settings import Packing
from qdet.data.shards.shard_set import ShardSet
from qdet.errors import DataError, QdetError
from tests.support.dataset_writers import WRITERS, Picture, image_bytes, put, put_image, voc_xml

BOX = (("a", (1.0, 1.0, 9.0, 9.0)),)
ONE = {"train": [Picture("x0", (20, 16), BOX), Picture("x1", (20, 16), BOX)]}
UP = "../../../"
ESCAPES = [
    f"{UP}secret.png",
    f"{UP}in/../secret.png",
    "/etc/passwd",
    UP.replace("/", "\\") + "secret.png",
    "C:\\secret.png",
]


def naming(layout: str, name: str) -> tuple[str, str]:
    """A file of a layout that names an image."""
    if layout == "coco":
        image = {"id": 1, "file_name": name, "width": 20, "height": 16}
        content = {"images": [image], "annotations": [], "categories": [{"id": 1, "name": "a"}]}
        return "annotations/instances_train.json", json.dumps(content)
    if layout == "labelme":
        return "train/x9.json", json.dumps({"imagePath": name, "shapes": []})
    if layout == "createml":
        return "train/_annotations.createml.json", json.dumps([{"image": name, "annotations": []}])
    if layout == "hf":
        return "train/metadata.jsonl", json.dumps({"file_name": name})
    if layout == "darknet":
        return "train.txt", name
    if layout == "voc":
        return "ImageSets/Main/train.txt", name
    return "Annotations/x9.xml", f"<annotation><filename>{name}</filename></annotation>"


@pytest.mark.parametrize("name", ESCAPES)
@pytest.mark.parametrize("layout", ["coco", "labelme", "createml", "hf", "darknet", "voc", "voc of LabelImg"])
def test_names_that_lead_out_of_the_folder_are_refused(layout, name, tmp_path):
    root = tmp_path / "in"
    WRITERS[layout if layout in WRITERS else "voc"][1](root, ONE, ["a"])
    if layout not in WRITERS:
        (root / "ImageSets" / "Main" / "train.txt").unlink()
    put_image(tmp_path, Picture("secret", (20, 16)))
    file, text = naming(layout, name)
    put(root / file, text)
    with pytest.raises(DataError, match="which is outside of") as raised:
        open_dataset(root)
    assert file.rpartition("/")[2].split(".")[0] in str(raised.value)


def test_names_may_lead_up_within_the_folder(tmp_path):
    put_image(tmp_path / "images", Picture("x0", (20, 16)))
    put(tmp_path / "json" / "train" / "x0.json", json.dumps({"imagePath": "../../images/x0.png", "shapes": [
        {"label": "a", "points": [[1, 1], [5, 5]], "shape_type": "rectangle"}]}))  # fmt: skip
    assert len(open_dataset(tmp_path).splits["train"]) == 1


BOMB = '<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "ha">' + "".join(
    f'<!ENTITY {new} "{f"&{old};" * 10}">' for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    "text",
    [
        BOMB + "]><annotation><object><name>&i;</name></object></annotation>",
        '<!DOCTYPE x [<!ENTITY f SYSTEM "file:///etc/passwd">]><annotation><filename>&f;</filename></annotation>',
        '<!DOCTYPE x SYSTEM "http://127.0.0.1:9/x.dtd"><annotation/>',
        '<!DOCTYPE x [<!ENTITY % p SYSTEM "http://127.0.0.1:9/x"> %p;]><annotation/>',
    ],
)
def test_xml_with_entities_is_refused_by_name(text, tmp_path):
    WRITERS["voc"][1](tmp_path, ONE, ["a"])
    put(tmp_path / "Annotations" / "x1.xml", text)
    with pytest.raises(DataError, match=r"x1\.xml has a document type or entities"):
        open_dataset(tmp_path)


def test_xml_of_any_depth_is_read_or_refused(tmp_path):
    WRITERS["voc"][1](tmp_path, ONE, ["a"])
    put(tmp_path / "Annotations" / "x1.xml", "<annotation>" * 200_000 + "</annotation>" * 200_000)
    assert open_dataset(tmp_path).splits["train"].annotations.images[1].boxes == 0


def test_json_and_yaml_of_any_depth_are_refused(tmp_path):
    WRITERS["labelme"][1](tmp_path / "a", ONE, ["a"])
    put(tmp_path / "a" / "train" / "x1.json", '{"shapes": [{"points": ' + "[" * 100_000)
    with pytest.raises(DataError, match=r"x1\.json is nested too deeply"):
        open_dataset(tmp_path / "a")
    WRITERS["yolo"][1](tmp_path / "b", ONE, ["a"])
    put(tmp_path / "b" / "data.yaml", "names: " + "[" * 5_000)
    with pytest.raises(DataError, match=r"data\.yaml is not YAML"):
        open_dataset(tmp_path / "b")


def test_yaml_constructs_and_multiplies_nothing(tmp_path):
    ran = tmp_path / "ran"
    file = tmp_path / "data.yaml"
    content = parse_yaml(f"names: !!python/object/apply:os.system ['touch {ran}']\nx: !!int 3", file)
    assert content == {"names": [f"touch {ran}"], "x": "3"}
    assert not ran.exists()
    lines = [
        "a0: &a0 {k: v}",
        *(f"a{k}: &a{k} {{<<: [{', '.join([f'*a{k - 1}'] * 9)}]}}" for k in range(1, 12)),
    ]
    parse_yaml("\n".join(lines), file)  # 9**11 keys, were they merged
    lists = [
        "a0: &a0 [x]",
        *(f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 9)}]" for k in range(1, 12)),
        "names: *a11",
    ]
    WRITERS["yolo"][1](tmp_path / "b", ONE, ["a"])
    put(tmp_path / "b" / "data.yaml", "\n".join(lists))
    with pytest.raises(DataError, match="`names` must be a list of names"):
        open_dataset(tmp_path / "b")
    WRITERS["hf in CSV"][1](tmp_path / "c", ONE, ["a"])
    put(tmp_path / "c" / "README.md", "---\n" + "\n".join(lists) + "\n---\n")
    with pytest.raises(DataError, match="nothing names 0"):
        open_dataset(tmp_path / "c")


def test_files_too_large_for_annotations_are_refused(tmp_path):
    WRITERS["yolo"][1](tmp_path, ONE, ["a"])
    for name in ("labels/train/x1.txt", "data.yaml"):
        with (tmp_path / name).open("r+b") as file:
            file.truncate(2**40)  # sparse
        with pytest.raises(DataError, match=rf"{name} has more than .* bytes"):
            open_dataset(tmp_path)
        (tmp_path / name).unlink()
        WRITERS["yolo"][1](tmp_path, ONE, ["a"])


def test_absurd_sizes_of_images_are_refused_by_their_header(tmp_path):
    WRITERS["yolo"][1](tmp_path, ONE, ["a"])
    file = tmp_path / "images" / "train" / "x1.png"
    whole = file.read_bytes()
    file.write_bytes(whole[:16] + (60_000).to_bytes(4, "big") * 2 + whole[24:])
    import zlib

    patched = bytearray(file.read_bytes())
    patched[29:33] = zlib.crc32(patched[12:29]).to_bytes(4, "big")
    file.write_bytes(patched)
    split = open_dataset(tmp_path).splits["train"]
    with pytest.raises(DataError, match=r"has 60000x60000 pixels, more than --max-pixels"):
        pack_split(split, tmp_path / "out", Packing(processes=1))
    patched[16:20] = (2**30).to_bytes(4, "big")
    patched[29:33] = zlib.crc32(patched[12:29]).to_bytes(4, "big")
    file.write_bytes(patched)
    with pytest.raises(DataError, match=r"x1\.png is 1073741824x60000; sides must be 1 to 65535"):
        open_dataset(tmp_path)


def test_links_out_of_the_folder_need_permission(tmp_path):
    WRITERS["voc"][1](tmp_path / "in", ONE, ["a"])
    for what in ("JPEGImages/x0.png", "JPEGImages"):
        inside, outside = tmp_path / "in" / what, tmp_path / "elsewhere"
        inside.rename(outside)
        inside.symlink_to(outside)
        with pytest.raises(
            DataError, match=rf"{what} is a link to {outside}, outside of the folder; --follow-links"
        ):
            open_dataset(tmp_path / "in")
        split = open_dataset(tmp_path / "in", follow_links=True).splits["train"]
        pack_split(split, tmp_path / what.replace("/", " "), Packing(processes=1))
        inside.unlink()
        outside.rename(inside)


def test_links_within_the_folder_are_followed_and_circles_end(tmp_path):
    WRITERS["voc of Roboflow"][1](tmp_path, ONE, ["a"])
    (tmp_path / "train" / "x0.png").rename(tmp_path / "train" / "real.bin")
    (tmp_path / "train" / "x0.png").symlink_to("real.bin")
    (tmp_path / "test").symlink_to("train")
    (tmp_path / "train" / "up").symlink_to("..")
    (tmp_path / "gone.png").symlink_to("nowhere")
    tree = list_tree(tmp_path)
    assert len(tree.files) < 40
    assert {"train/x0.png", "test/x0.png"} <= tree.files


@pytest.mark.skipif(sys.platform == "darwin", reason="its file systems hold Unicode only")
def test_names_that_are_no_unicode_are_refused(tmp_path):
    WRITERS["voc"][1](tmp_path, ONE, ["a"])
    put(tmp_path / "JPEGImages" / os.fsdecode(b"\xff.png"), b"")
    with pytest.raises(DataError, match=r"whose name is not UTF-8, b'\\xff\.png'; rename it"):
        open_dataset(tmp_path)


NASTY = [
    "new\nline",
    "tab\t",
    "-rf",
    "$(touch ran)",
    "a'b\"c",
    "%s%n",
    "\u202eabc",
    "{0}",
    "x" * 200,
    "[red]",
    "a\\b",
    "~",
    "nul\x01",
]


@pytest.mark.parametrize("layout", WRITERS)
def test_strange_names_of_files_and_classes_come_through(layout, tmp_path):
    nasty = [name.replace('"', "") for name in NASTY] if layout == "hf in CSV" else NASTY
    if layout in ("voc", "darknet"):  # name a file per line
        nasty = [name for name in nasty if name.split() == name.split(" ")]
    names = [f"{name}{k}" for k, name in enumerate(nasty)]
    if "voc" in layout:
        names = [name for name in names if "\x01" not in name]  # XML cannot hold it
    classes = [name.replace("\n", " ") if layout == "darknet" else name for name in names]
    pictures = [
        Picture(n, (20, 16), ((c, (1.0, 1.0, 9.0, 9.0)),)) for n, c in zip(names, classes, strict=True)
    ]
    WRITERS[layout][1](tmp_path / "in", {"train": pictures}, classes)
    split = open_dataset(tmp_path / "in").splits["train"]
    shards = ShardSet.open(pack_split(split, tmp_path / "out", Packing(processes=1)))
    found = {shards.read_annotation(row)["file_name"].rpartition("/")[2] for row in range(len(shards))}
    assert found == {picture.file for picture in pictures}
    shown = {" ".join(name.split()).replace("\x01", "\\x01") for name in classes}
    assert sorted(shards.categories.names) == sorted(shown)


def make_zip(file, members: dict[str, bytes], *, link: str | None = None):
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
        if link is not None:
            info = zipfile.ZipInfo(link)
            info.external_attr = (stat.S_IFLNK | 0o777) << 16
            archive.writestr(info, "/etc")
    return file


@pytest.mark.parametrize("name", ["../x.png", "/tmp/x.png", "a\\..\\x.png", "a/../../x.png"])
def test_archives_with_names_that_lead_out_are_refused_whole(name, tmp_path):
    archive = make_zip(tmp_path / "x.zip", {"good.png": b"1", name: b"2"})
    with pytest.raises(DataError, match="not a plain file below it; nothing was unpacked"):
        unpack(archive, tmp_path / "in")
    assert not (tmp_path / "in").exists()


def test_archives_with_links_are_refused(tmp_path):
    archive = make_zip(tmp_path / "x.zip", {"good.png": b"1"}, link="train")
    with pytest.raises(DataError, match="nothing was unpacked"):
        unpack(archive, tmp_path / "in")


def test_an_unpacked_archive_of_strange_names_is_read(tmp_path):
    members = {}
    for name in NASTY[:5]:
        picture = Picture(name, (20, 16), BOX)
        members |= {
            f"set/train/{name}.png": image_bytes((20, 16)),
            f"set/train/{name}.xml": voc_xml(picture).encode(),
        }
    unpack(make_zip(tmp_path / "x.zip", members), tmp_path / "in")
    assert len(open_dataset(tmp_path / "in").splits["train"]) == 5


WORDS = (
    *("image", "annotations", "label", "coordinates", "x", "y", "width", "height", "shapes", "points"),
    *("shape_type", "group_id", "imagePath", "file_name", "objects", "bbox", "categories", "images"),
    *("id", "image_id", "category_id", "name"),
)
junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.parametrize(
    ("kind", "file"),
    [
        ("labelme", "train/x.json"),
        ("createml", "train/x.json"),
        ("coco", "train/_annotations.coco.json"),
        ("hf", "train/metadata.jsonl"),
    ],
)
@settings(max_examples=40)
@given(content=junk)
def test_any_json_is_read_or_refused(kind, file, content, tmp_path_factory):
    root = tmp_path_factory.mktemp("junk")
    put_image(root / "train", Picture("x", (9, 9)))
    wrapped = {"shapes": [content], "imagePath": "x.png"} if kind == "labelme" else content
    wrapped = [{"image": "x.png", "annotations": [content]}] if kind == "createml" else wrapped
    if kind == "coco":
        wrapped = {"images": [content], "annotations": [content], "categories": [content]}
    if kind == "hf":
        wrapped = {"file_name": "x.png", "objects": content}
    put(root / file, json.dumps(wrapped))
    try:
        open_dataset(root, format=kind)
    except QdetError as error:
        assert str(root) in str(error)  # noqa: PT017


@settings(max_examples=60)
@given(text=st.lists(st.text(alphabet="01 .-+eEnaif\t:[]{}&*!\n", max_size=30), max_size=5))
def test_any_text_is_read_or_refused(text, tmp_path_factory):
    root = tmp_path_factory.mktemp("junk")
    put_image(root, Picture("x", (9, 9)))
    put(root / "x.txt", "\n".join(text))
    put(root / "data.yaml", "names: [a, b]\n" + "\n".join(text))
    try:
        open_dataset(root, format="yolo")
    except QdetError as error:
        assert str(root) in str(error)  # noqa: PT017


def test_names_are_printed_as_they_are(tmp_path, capsys):
    name, label = "[/b] [bold]x", "\x1b]0;title\x07"
    bad = Picture(name, (20, 16), ((label, (1.0, 1.0, 9.0, 9.0)),))
    WRITERS["labelme"][1](tmp_path / "[in]", {"train": [*ONE["train"], bad]}, [])
    put(tmp_path / "[in]" / "train" / f"{name}.png", b"nothing")
    out = tmp_path / "[/out]"
    for _ in range(2):
        to_shards.main([str(tmp_path / "[in]"), "--out", str(out), "--max-bad", "1", "--processes", "1"])
    said = capsys.readouterr().out.replace("\n", "")
    assert f"{name}.png (image 1) is no JPEG" in said
    assert "2 classes (\\x1b]0;title\\x07, a)" in said
    assert "\x1b" not in said
    assert "[/out]/train is already converted" in said
