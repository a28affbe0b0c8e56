"""Bad folders: an error that names the file, or a count of what was dropped."""

import json
import shutil

import pytest
from PIL import Image

from data_prep.datasets import open_dataset, pack_split
from data_prep.packing.settings import Packing
from qdet.errors import DataError
from tests.support.dataset_writers import WRITERS, Picture, labelme_json, put, put_image, voc_xml

BOX = (("a", (1.0, 1.0, 9.0, 9.0)),)
ONE = {"train": [Picture("x0", (20, 16), BOX), Picture("x1", (20, 16), BOX)]}
ONE_PACKED = Packing(processes=1)


def write(layout, root):
    WRITERS[layout][1](root, ONE, ["a"])


def test_a_folder_in_no_format_says_what_was_looked_for(tmp_path):
    put_image(tmp_path, Picture("x", (9, 9)))
    put(tmp_path / "notes.json", '{"a": 1}')
    put(tmp_path / "empty.json", "")
    with pytest.raises(DataError) as raised:
        open_dataset(tmp_path)
    said = str(raised.value)
    assert said.startswith(f"{tmp_path} is in no known format")
    for word in ("data.yaml", "Annotations/*.xml", "metadata.jsonl", "_annotations.coco.json", "--format"):
        assert word in said


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("train-000000.tar", r"train-000000\.tar looks like a shard: train on shards with --data\.train"),
        ("0.parquet", r"Parquet is not read \(0\.parquet\): save the images"),
        ("x.zip", r"Unpack x\.zip first"),
    ],
)
def test_what_is_there_instead_is_said(name, said, tmp_path):
    put(tmp_path / name, "x")
    with pytest.raises(DataError, match=said):
        open_dataset(tmp_path)


def test_a_folder_in_two_formats_says_which(tmp_path):
    write("yolo", tmp_path)
    write("coco", tmp_path)
    with pytest.raises(DataError) as raised:
        open_dataset(tmp_path)
    said = str(raised.value)
    assert "coco (annotations/instances_train.json), yolo (data.yaml); say which with --format" in said
    assert open_dataset(tmp_path, format="coco").format == "coco"
    assert open_dataset(tmp_path, format="yolo").format == "yolo"


@pytest.mark.parametrize("kind", ["coco", "yolo", "voc", "labelme", "createml", "hf"])
def test_a_folder_of_another_format_is_refused(kind, tmp_path):
    write("voc" if kind != "voc" else "yolo", tmp_path)
    with pytest.raises(DataError, match=rf"{tmp_path} is not in the format {kind}: looked for "):
        open_dataset(tmp_path, format=kind)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nowhere", "does not exist"),
        ("x.zip", "is no folder; unpack it first"),
        ("data.yaml", "is no folder; give the folder that holds it, /"),
    ],
)
def test_what_is_no_folder_is_refused(name, said, tmp_path):
    if name != "nowhere":
        put(tmp_path / name, "PK")
    with pytest.raises(DataError, match=said):
        open_dataset(tmp_path / name)


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(DataError, match="is in no known format"):
        open_dataset(tmp_path)


YAML = "train: images/train\n"


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("data.yaml", YAML, "is in no known format|has no `names`|no names of the classes"),
        ("data.yaml", YAML + "names: 3\n", "has no `names`"),
        ("data.yaml", YAML + "names: [a, [b]]\n", "`names` must be a list of names"),
        ("data.yaml", YAML + "names: {x: a}\n", "`names` must be a list of names"),
        ("data.yaml", YAML + "names: [a, a]\n", "more than one category of name 'a'"),
        ("data.yaml", YAML + "names: [a]\nnc: 2\n", "`nc` says '2' classes, `names` lists 1"),
        ("data.yaml", YAML + "names: [a]\nkpt_shape: [x]\n", "`kpt_shape` must be two numbers"),
        ("data.yaml", "train: {a: b}\nnames: [a]\n", "`train` must be a folder"),
        ("data.yaml", "names: [a\n", "is not YAML"),
        ("data.yaml", "- names:\n", "holds no `name: value` lines"),
        ("data.yaml", "names: [a]\ntrain: ../../etc\n", r"names '../../etc', which is outside of"),
        ("data.yaml", "names: [a]\ntrain: /etc\n", r"names '/etc', which is outside of"),
        ("data.yaml", "names: [a]\ntrain: 'C:\\x'\n", r"which is outside of"),
        (
            "labels/train/x0.txt",
            "1 0.5 0.5 0.1 0.1\n",
            r"x0\.txt, line 1: no class has the number '1'.*names 0 a",
        ),
        (
            "labels/train/x0.txt",
            "0 0.5 0.5 0.1 0.1\n\ncat 0.5 0.5 0.1 0.1\n",
            r"x0\.txt, line 3: no class has the",
        ),
        ("labels/train/x0.txt", "nan 0.5 0.5 0.1 0.1\n", "no class has the number 'nan'"),
        ("labels/train/x0.txt", "-1 0.5 0.5 0.1 0.1\n", "no class has the number '-1'"),
        ("labels/train/x0.txt", "9" * 9999 + " 0.5 0.5 0.1 0.1\n", "no class has the number '999"),
        ("labels/train/x0.txt", "0,0.5,0.5,0.1,0.1\n", r"'0,0\.5,0\.5,0\.1,0\.1' is no number; put blanks"),
        ("labels/train/x0.txt", b"0 \xff\n", r"x0\.txt is not UTF-8 text"),
    ],
)
def test_mistakes_of_yolo_are_named(file, text, said, tmp_path):
    write("yolo", tmp_path)
    put(tmp_path / file, text)
    with pytest.raises(DataError, match=said):
        open_dataset(tmp_path)


def test_boxes_of_yolo_in_pixels_are_refused_if_all_are_and_counted_if_some_are(tmp_path):
    write("yolo", tmp_path)
    files = sorted((tmp_path / "labels").rglob("*.txt"))
    said = open_dataset(tmp_path).notes
    assert not any("instead of shares" in note for note in said)
    put(files[0], "0 30 20 10 10\n")
    assert open_dataset(tmp_path).notes["boxes with numbers above 2 instead of shares of the image"] == 1
    for file in files:
        put(file, "0 30 20 10 10\n")
    with pytest.raises(DataError, match=r"from 0 to 1, and all \d+ of .* larger numbers; divide"):
        open_dataset(tmp_path)


def test_yolo_without_names_or_without_labels_says_what_to_add(tmp_path):
    write("yolo", tmp_path)
    (tmp_path / "data.yaml").unlink()
    with pytest.raises(DataError, match=r"no names of the classes: put a data\.yaml there"):
        open_dataset(tmp_path)
    write("yolo", tmp_path)
    (tmp_path / "labels").rename(tmp_path / "lables")
    with pytest.raises(
        DataError, match=r"no label file for any of 2 images: looked for 'labels/train/x0\.txt' and"
    ):
        open_dataset(tmp_path)


def test_a_list_of_missing_images_is_named(tmp_path):
    write("darknet", tmp_path)
    put(tmp_path / "train.txt", "data/obj_train_data/train/x0.png\nobj_train_data/gone.png\n")
    with pytest.raises(DataError, match=r"train\.txt lists 1 image not found: 'obj_train_data/gone\.png'"):
        open_dataset(tmp_path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is not XML"),
        ("<annotation><object>", "is not XML"),
        ("<annotations><image/></annotations>", "CVAT's own XML; export the task as COCO"),
        ("<nothing/>", "is no Pascal VOC annotation: its first element is 'nothing'"),
        ("<annotation><object><bndbox/></object></annotation>", "needs the name of its class, got None"),
        ("<annotation><object><name> </name></object></annotation>", "needs the name of its class, got ' '"),
        ('<?xml version="1.0" encoding="no-such"?><annotation/>', "is not XML"),
    ],
)
def test_mistakes_of_voc_are_named(text, said, tmp_path):
    write("voc", tmp_path)
    put(tmp_path / "Annotations" / "x1.xml", text)
    with pytest.raises(DataError, match=said) as raised:
        open_dataset(tmp_path)
    assert "x1.xml" in str(raised.value)


def test_missing_images_of_voc_are_listed(tmp_path):
    write("voc", tmp_path)
    (tmp_path / "JPEGImages" / "x0.png").unlink()
    with pytest.raises(DataError, match=r"ImageSets/Main/train\.txt lists 1 image not found: 'x0'"):
        open_dataset(tmp_path)
    write("voc of Roboflow", tmp_path / "flat")
    (tmp_path / "flat" / "train" / "x1.png").unlink()
    with pytest.raises(DataError, match=r"its XML files are of 1 image not found: 'train/x1\.xml'"):
        open_dataset(tmp_path / "flat")


def test_the_image_of_an_xml_may_be_named_in_it(tmp_path):
    put_image(tmp_path / "images", Picture("photo", (20, 16)))
    put(tmp_path / "annotations" / "x1.xml", voc_xml(Picture("photo", (20, 16), BOX)))
    split = open_dataset(tmp_path).splits["train"]
    assert [(i.file_name, i.boxes) for i in split.annotations.images] == [("images/photo.png", 1)]


APPLE, HF, COCO = "train/_annotations.createml.json", "train/metadata.jsonl", "instances_train.json"
EMPTY = '{"images": [], "annotations": [], "categories": []}'


@pytest.mark.parametrize(
    ("layout", "file", "text", "said"),
    [
        ("labelme", "train/x1.json", '{"shapes": ', "cannot be read"),
        ("labelme", "train/x1.json", '{"shapes": 3}', "cannot be read"),
        ("labelme", "train/x1.json", '{"shapes": [{"label": 3}]}', "needs the name of its class"),
        ("labelme", "train/x9.json", '{"shapes": [], "imagePath": "x0.png"}', "another JSON file is of"),
        ("labelme", "train/x9.json", '{"shapes": [], "imagePath": "gone"}', r"'gone \(train/x9\.json\)'"),
        ("createml", APPLE, '[{"image": "x9", "annotations": []}]', "not found: 'x9'"),
        ("createml", APPLE, '[{"image": 3, "annotations": []}]', "not found: '3'"),
        (
            "createml",
            "train/a.json",
            '[{"image": "x0.png", "annotations": []}]',
            "'train/x0.png' more than once",
        ),
        ("createml", APPLE, '["image", "annotations"]', "cannot be read"),
        ("hf", HF, '{"file_name": "x0.png"}\n[]\n', "line 2: is no JSON object"),
        ("hf", HF, '{"file_name": ', "line 1: is not JSON"),
        ("hf", HF, '{"file_name": "x0.png", "objects": 3}', "`objects` needs `bbox`"),
        ("hf", HF, '{"file_name": "x0.png", "objects": {"bbox": [[1]]}}', "two lists of the same"),
        ("hf", HF, '{"file_name": "x0.png", "objects": [3]}', "must hold `bbox` and"),
        ("hf", HF, '{"file_name": "x0.png", "objects": [{"category": 0}]}', "number, and nothing names 0"),
        ("hf", HF, '{"file_name": "x7.png"}\n', "not found: 'x7.png'"),
        ("hf in CSV", "metadata.csv", 'file_name,objects\ntrain/x0.png,"{"\n', "line 2, `objects`: is not"),
        ("hf in CSV", "metadata.csv", f"file_name,objects\nx,{'x' * 200_000}\n", "is not CSV"),
        ("coco", f"annotations/{COCO}", '{"images": [], "annotations": 3, "categories": []}', "no list"),
        ("coco", f"annotations/old/{COCO}", EMPTY, "has two annotation files of train"),
    ],
)
def test_mistakes_of_json_and_csv_are_named(layout, file, text, said, tmp_path):
    write(layout, tmp_path)
    put(tmp_path / file, text)
    with pytest.raises(DataError, match=said) as raised:
        open_dataset(tmp_path)
    assert file.rpartition("/")[2].split(".")[0] in str(raised.value) or "nothing names" in said


def test_missing_images_of_coco_are_listed_and_escapes_refused(tmp_path):
    write("coco", tmp_path)
    (tmp_path / "train" / "x0.png").unlink()
    with pytest.raises(DataError, match=r"instances_train\.json: it lists 1 image not found: 'x0\.png'"):
        open_dataset(tmp_path)


def test_images_of_coco_are_found_in_the_only_folder_that_has_them(tmp_path):
    write("coco", tmp_path)
    (tmp_path / "annotations" / "instances_val.json").unlink(missing_ok=True)
    expected = [image.file_name for image in open_dataset(tmp_path).splits["train"].annotations.images]
    (tmp_path / "train").rename(tmp_path / "photographs")
    found = open_dataset(tmp_path).splits["train"].annotations.images
    assert [image.file_name for image in found] == expected
    shutil.copytree(tmp_path / "photographs", tmp_path / "others")  # now either may be meant
    with pytest.raises(DataError, match="not found: 'x0"):
        open_dataset(tmp_path)


def test_ids_that_cannot_be_used_are_renumbered_and_said(tmp_path):
    write("coco", tmp_path)
    file = tmp_path / "annotations" / "instances_train.json"
    content = json.loads(file.read_text())
    for k, one in enumerate(content["annotations"]):
        one["id"] = k  # as Roboflow does
    put(file, json.dumps(content))
    dataset = open_dataset(tmp_path)
    assert dataset.notes == {"annotations with new ids, as theirs are missing, 0 or not unique": 2}
    pack_split(dataset.splits["train"], tmp_path / "out", ONE_PACKED)


BAD_BOXES = [
    ("zero_area", (5.0, 5.0, 5.0, 9.0)),
    ("zero_area", (9.0, 5.0, 5.0, 9.0)),
    ("outside_image", (30.0, 5.0, 40.0, 9.0)),
    ("not_finite", (float("nan"), 5.0, 6.0, 9.0)),
    ("not_finite", (5.0, float("inf"), 6.0, 9.0)),
]


@pytest.mark.parametrize("layout", [name for name in WRITERS if name != "labelme"])
@pytest.mark.parametrize(("reason", "box"), BAD_BOXES)
def test_bad_boxes_are_dropped_and_counted_in_every_format(layout, reason, box, tmp_path):
    picture = Picture("bad", (20, 16), (("a", box), ("a", (-3.0, 2.0, 8.0, 9.0))))
    WRITERS[layout][1](tmp_path / "in", {"train": [*ONE["train"], picture]}, ["a"])
    if reason == "not_finite" and layout in ("createml", "hf", "hf in CSV"):
        with pytest.raises(DataError, match=r"cannot be read|is not JSON"):  # JSON has no NaN
            open_dataset(tmp_path / "in")
        return
    split = open_dataset(tmp_path / "in").splits["train"]
    assert split.annotations.listed == {"images": 3, "boxes": 4}
    assert split.annotations.report == {"clipped": 1, f"dropped_{reason}": 1}
    pack_split(split, tmp_path / "out", ONE_PACKED)


OBJECT = "<object><name>a</name>{}</object>"
UNREADABLE = {
    "yolo": ("labels/train/x1.txt", "0 0.5 0.5 0.1\n0 a b c d\n0\n0 0.5 0.5 0.1 0.1\n"),
    "voc": (
        "Annotations/x1.xml",
        "<annotation>"
        + OBJECT.format("")
        + OBJECT.format("<bndbox><xmin>x</xmin></bndbox>")
        + OBJECT.format("<bndbox/>")
        + "</annotation>",
    ),
    "labelme": (
        "train/x1.json",
        json.dumps({"shapes": [{"label": "a", "points": p} for p in ([], None, [[1, 2, 3]])]}),
    ),
    "createml": (
        APPLE,
        json.dumps(
            [
                {"image": "x0.png", "annotations": []},
                {
                    "imagefilename": "x1.png",
                    "annotation": [
                        {"label": "a", "coordinates": given}
                        for given in (
                            None,
                            {"x": 3},
                            {"x": True, "y": 1, "width": 1, "height": 1},
                            {"x": 5, "y": 5, "width": 2, "height": 2},
                        )
                    ],
                },
            ]
        ),
    ),
    "hf": (
        HF,
        json.dumps(
            {
                "file_name": "x0.png",
                "objects": [
                    {"category": "a", "bbox": box} for box in (None, [1, 2, 3], "1234", [1, 1, 3, 3])
                ],
            }
        ),
    ),
}


@pytest.mark.parametrize("layout", UNREADABLE)
def test_boxes_that_cannot_be_read_are_dropped_and_counted(layout, tmp_path):
    file, text = UNREADABLE[layout]
    write(layout, tmp_path / "in")
    put(tmp_path / "in" / file, text)
    split = open_dataset(tmp_path / "in").splits["train"]
    assert split.annotations.report == {"dropped_unreadable_box": 3}
    pack_split(split, tmp_path / "out", ONE_PACKED)


def test_missing_labels_are_kept_as_images_without_objects_and_said(tmp_path):
    for layout in ("yolo", "voc"):
        root = tmp_path / layout
        write(layout, root)
        next(root.rglob("x1.txt" if layout == "yolo" else "x1.xml")).unlink()
        dataset = open_dataset(root)
        assert [image.boxes for image in dataset.splits["train"].annotations.images] == [1, 0]
        assert sum(dataset.notes.values()) == 1
        assert "taken as images without objects" in next(iter(dataset.notes))
    put(tmp_path / "yolo" / "labels" / "train" / "orphan.txt", "0 0.5 0.5 0.1 0.1\n")
    assert open_dataset(tmp_path / "yolo").notes["label files without an image"] == 1


def test_images_that_are_not_labelled_yet_are_left_out_and_said(tmp_path):
    for layout in ("labelme", "createml", "hf"):
        root = tmp_path / layout
        write(layout, root)
        put_image(root / "train", Picture("new", (9, 9)))
        dataset = open_dataset(root)
        assert len(dataset.splits["train"]) == 2
        assert sum(dataset.notes.values()) == 1
        assert "left out" in next(iter(dataset.notes))


def test_sizes_that_do_not_fit_are_found_when_packing(tmp_path):
    write("voc", tmp_path / "voc")
    put(tmp_path / "voc" / "Annotations" / "x1.xml", voc_xml(Picture("x1", (16, 20), BOX)))
    split = open_dataset(tmp_path / "voc").splits["train"]
    with pytest.raises(
        DataError, match=r"x1\.png \(image 2\) is 20x16 pixels, the annotation file says 16x20"
    ):
        pack_split(split, tmp_path / "out", ONE_PACKED)
    put(
        tmp_path / "voc" / "Annotations" / "x1.xml", voc_xml(Picture("x1", (0, 0), BOX))
    )  # as some tools write
    pack_split(open_dataset(tmp_path / "voc").splits["train"], tmp_path / "out2", ONE_PACKED)


@pytest.mark.parametrize("layout", ["yolo", "voc", "createml", "hf", "labelme"])
def test_images_that_cannot_be_read_count_as_bad_images(layout, tmp_path):
    write(layout, tmp_path / "in")
    next((tmp_path / "in").rglob("x1.png")).write_bytes(b"GIF89a nonsense")
    split = open_dataset(tmp_path / "in").splits["train"]
    with pytest.raises(
        DataError, match=r"1 image is bad, --max-bad 0 allows 0.*\n.*x1\.png .* is no readable gif"
    ):
        pack_split(split, tmp_path / "out", ONE_PACKED)
    pack_split(split, tmp_path / "out", Packing(processes=1, max_bad=1))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photos_that_exif_turns_are_named(orientation, tmp_path):
    write("yolo", tmp_path)
    exif = Image.Exif()
    exif[0x0112] = orientation
    (tmp_path / "images" / "train" / "x1.png").unlink()
    Image.new("RGB", (20, 16)).save(tmp_path / "images" / "train" / "x1.jpg", exif=exif)
    if orientation == 1:
        open_dataset(tmp_path)
        return
    with pytest.raises(DataError, match=r"EXIF turns or mirrors 1 image,.*x1\.jpg"):
        open_dataset(tmp_path)


def test_labelme_files_name_images_with_backslashes_and_in_other_folders(tmp_path):
    put_image(tmp_path / "photos", Picture("x0", (20, 16)))
    text = labelme_json(Picture("x0", (20, 16), BOX)).replace('"x0.png"', r'"..\\photos\\x0.png"')
    put(tmp_path / "json" / "x0.json", text)
    split = open_dataset(tmp_path).splits["train"]
    assert [image.file_name for image in split.annotations.images] == ["photos/x0.png"]
