"""Third-party shards with irregular entries: read as a conversion reads them, dropped and counted."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from webdataset.tariterators import group_by_keys

from data_prep.annotations.coco import check_content
from data_prep.annotations.coco_file import AnnotationEntry, CocoFile, ImageEntry, OutlinedEntry
from qdet.data.augment import AugmentConfig
from qdet.data.config import DataConfig
from qdet.data.loading.in_memory import InMemorySamples, parse_sample
from qdet.data.loading.sequential_stream import SequentialStream
from qdet.data.loading.stream_config import StreamConfig
from qdet.data.shards.annotations import read_annotations
from qdet.data.shards.locate import Access
from qdet.data.shards.report import Report
from qdet.data.shards.sequential_read import files_of
from qdet.data.shards.sequential_set import SequentialSet
from qdet.data.shards.shard_set import ShardSet
from qdet.errors import DataError

H, W = 48, 64
CATEGORIES = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
GOOD = {"bbox": [8, 12, 13, 12], "category_id": 1, "area": 156, "iscrowd": 0}


def _image(orientation: int = 1, size=(W, H)) -> bytes:
    exif = Image.Exif()
    if orientation != 1:
        exif[0x0112] = orientation
    file = io.BytesIO()
    Image.fromarray(np.full((size[1], size[0], 3), 99, np.uint8)).save(file, "JPEG", exif=exif)
    return file.getvalue()


IMAGE = _image()


def _write(folder: Path, notes, *, image: bytes = IMAGE, key: str = "img{:03d}") -> Access:
    """Write a shard with one sample for each JSON; return how it is opened."""
    folder.mkdir(parents=True)
    with tarfile.open(folder / "x-000.tar", "w") as tar:
        for number, note in enumerate(notes, start=1):
            text = note if isinstance(note, bytes) else json.dumps(note).encode()
            for name, data in ((f"{key}.jpg", image), (f"{key}.json", text)):
                info = tarfile.TarInfo(name.format(number))
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return Access(cache=str(folder.parent / "cache"))


def _notes(change=None, **fields) -> list[dict]:
    """Return the JSON of three samples; the objects of the first two get `fields`."""
    entries = [[GOOD | fields], [GOOD | fields], [GOOD]]
    notes = [
        {"image_id": 7 * number, "annotations": entry, "categories": CATEGORIES}
        for number, entry in enumerate(entries, start=1)
    ]
    return notes if change is None else [change(note) for note in notes]


def _truth(shards: ShardSet) -> list[tuple]:
    return [
        (a["image_id"], tuple(a["bbox"]), a["area"], a["iscrowd"], a["category_id"])
        for a in shards.ground_truth()["annotations"]
    ]


def _good(number: int, *, area: float = 156, iscrowd: int = 0) -> tuple:
    return 7 * number, (8, 12, 13, 12), area, iscrowd, 1


THREE = [_good(1), _good(2), _good(3)]
MENDED = {
    "area null": (_notes(area=None), THREE, {"area_filled_in": 2}),
    "area negative": (_notes(area=-3), THREE, {"area_out_of_range": 2}),
    "area enormous": (_notes(area=1e12), THREE, {"area_out_of_range": 2}),
    "iscrowd null": (_notes(iscrowd=None), THREE, {}),
    "iscrowd in words": (
        _notes(iscrowd="True"),
        [_good(1, iscrowd=1), _good(2, iscrowd=1), _good(3)],
        {"iscrowd_in_words": 2},
    ),
    "ignore": (
        _notes(ignore=1),
        [_good(1, iscrowd=1), _good(2, iscrowd=1), _good(3)],
        {"ignored_as_crowds": 2},
    ),
    "category as float": (_notes(category_id=1.0), THREE, {}),
    "category in quotes": (_notes(category_id="1"), THREE, {}),
    "category as name": (_notes(category_id="cat"), THREE, {}),
    "no category": (_notes(category_id=None), [_good(3)], {"dropped_without_class": 2}),
    "half a category": (_notes(category_id=1.5), [_good(3)], {"dropped_without_class": 2}),
    "outside": (_notes(bbox=[800, 600, 13, 12]), [_good(3)], {"dropped_outside_image": 2}),
    "no area": (_notes(bbox=[8, 12, 0, 12]), [_good(3)], {"dropped_zero_area": 2}),
    "negative width": (_notes(bbox=[8, 12, -3, 12]), [_good(3)], {"dropped_zero_area": 2}),
    "not a number": (_notes(bbox=[8, float("nan"), 3, 12]), [_good(3)], {"dropped_not_finite": 2}),
    "five numbers": (_notes(bbox=[8, 12, 13, 12, 0.9]), [_good(3)], {"dropped_unreadable_box": 2}),
    "box as object": (
        _notes(bbox={"x": 8, "y": 12, "width": 13, "height": 12}),
        THREE,
        {"boxes_given_as_objects": 2},
    ),
    "polygon": (
        _notes(bbox=None, segmentation=[[8, 12, 21, 12, 21, 24]]),
        THREE,
        {"boxes_from_segmentation": 2},
    ),
    "id in quotes": (_notes(lambda note: note | {"image_id": str(note["image_id"])}), THREE, {}),
    "id as float": (_notes(lambda note: note | {"image_id": float(note["image_id"])}), THREE, {}),
    "no entry": (_notes(lambda note: note | {"annotations": [None, *note["annotations"]]}), THREE, None),
}


@pytest.mark.parametrize("case", MENDED)
def test_irregular_objects_are_mended_or_dropped_and_counted(case, tmp_path, capsys):
    notes, expected, counts = MENDED[case]
    access = _write(tmp_path / "set", notes)
    shards = ShardSet.open(tmp_path / "set", access)
    assert _truth(shards) == expected
    assert int(shards.index.boxes.sum()) == len(expected)
    if counts is not None:
        assert shards.manifest.get("report", {}) == counts
    printed = capsys.readouterr().out
    for kind, count in (counts or {}).items():
        assert f"{kind.replace('_', ' ')}: {count} (first: " in printed
        assert "sample img001" in printed
    dataset = SequentialSet.open(str(tmp_path / "set"), Access(categories=_file(tmp_path)), images=3)
    in_order = []
    for raw in group_by_keys(files_of(dataset.shards[0], ())):
        sample = parse_sample(raw, dataset.categories, 10**8)
        one = InMemorySamples((sample,), dataset.categories, 10**8).read_annotation(0)
        columns = zip(one["boxes_xywh"], one["areas"], one["iscrowd"], one["category_ids"], strict=True)
        in_order += [(one["image_id"], tuple(box), *rest) for box, *rest in columns]
    assert in_order == expected


def _file(folder: Path) -> str:
    file = folder / "categories.json"
    file.write_text(json.dumps(CATEGORIES))
    return str(file)


BROKEN = {
    "no JSON": b"{",
    "no known form": b'{"label": 3}',
    "another size": json.dumps({"annotations": [GOOD], "width": 1, "height": 2}).encode(),
    "columns of unequal length": json.dumps({"boxes": [[1, 2, 3, 4]], "labels": []}).encode(),
    "too large an id": json.dumps({"id": 2**63, "annotations": [GOOD]}).encode(),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_sample_is_dropped_up_to_the_limit(case, tmp_path, capsys):
    access = _write(tmp_path / "set", [BROKEN[case], *_notes()])
    with pytest.raises(DataError, match=r"1 sample is bad, --data\.max-bad 0 allows 0.*\n.*sample img001: "):
        ShardSet.open(tmp_path / "set", access)
    lenient = DataConfig(train=str(tmp_path / "set"), cache=access.cache, max_bad=1)
    shards = lenient.open(lenient.train)
    assert [one["key"] for one in shards.manifest["dropped_samples"]] == ["img001"]
    assert shards.index.image_id.tolist() == [7, 14, 21]
    assert "dropped: " in capsys.readouterr().out
    with pytest.raises(DataError, match="allows 0"):  # what the scan left holds for a lower limit too
        ShardSet.open(tmp_path / "set", access)


def test_broken_shards_are_refused_whatever_the_limit(tmp_path):
    access = _write(tmp_path / "set", _notes())
    file = tmp_path / "set" / "x-000.tar"
    file.write_bytes(file.read_bytes()[:-4000])
    with pytest.raises(DataError, match="is damaged at or after"):
        ShardSet.open(tmp_path / "set", Access(cache=access.cache, max_bad=99))


def test_an_error_where_all_listed_boxes_are_lost(tmp_path):
    notes = _notes(bbox=[8, 12, 0, 0])[:2]
    access = _write(tmp_path / "set", notes)
    with pytest.raises(
        DataError, match=r"none of its 2 boxes can be used \(dropped zero area: 2 \(first: .*\[8, 12, 0, 0\]"
    ):
        ShardSet.open(tmp_path / "set", access)


def test_a_set_without_objects_opens_and_says_so(tmp_path):
    notes = _notes(lambda note: note | {"annotations": []})
    shards = ShardSet.open(tmp_path / "set", _write(tmp_path / "set", notes))
    assert (len(shards), shards.objects) == (3, 0)


@pytest.mark.parametrize("orientation", [2, 3, 4, 6])
def test_images_that_viewers_turn_are_counted(orientation, tmp_path, capsys):
    _write(tmp_path / "set", _notes(), image=_image(orientation))
    shards = ShardSet.open(tmp_path / "set")
    assert shards.manifest["report"] == {"images_with_EXIF_orientation": 3}
    assert "warning: images with EXIF orientation: 3 (first: " in capsys.readouterr().out


def test_swapped_width_and_height_are_told_from_a_turned_image(tmp_path):
    notes = _notes(lambda note: note | {"width": H, "height": W})
    for orientation, said in ((1, "swapped there, and the image has no EXIF"), (6, "rotated by its EXIF")):
        _write(tmp_path / str(orientation), notes, image=_image(orientation))
        with pytest.raises(DataError, match=f"is 64x48 pixels, its JSON says 48x64.*{said}"):
            ShardSet.open(tmp_path / str(orientation))


def test_reading_from_front_to_back_prints_each_kind_once(tmp_path, capsys):
    _write(tmp_path / "set", _notes(area=None))
    access = Access(categories=_file(tmp_path))
    dataset = SequentialSet.open(str(tmp_path / "set"), access, images=3)
    stream = SequentialStream(dataset, AugmentConfig(), StreamConfig(batch_size=1), shuffle=1)
    list(stream.steps(0, 6))
    assert capsys.readouterr().out.count("area filled in") == 1


VALUE = st.sampled_from([0, 1, -1, 5, 63.5, 70, 1e11, None, "2", "x", True, float("inf")])
BOX = st.one_of(st.lists(VALUE, min_size=4, max_size=4), st.none(), st.just({"x": 1, "y": 2, "w": 3, "h": 4}))
ENTRY = st.fixed_dictionaries(
    {
        "bbox": st.one_of(BOX, st.just([8, 12, 13, 12])),
        "area": VALUE,
        "iscrowd": VALUE,
        "ignore": VALUE,
        "segmentation": st.sampled_from([None, [[1, 2, 30, 2, 30, 40]], []]),
        "category_id": st.sampled_from([1, 2, 2.0]),
    }
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(ENTRY, min_size=1, max_size=6))
def test_a_conversion_and_third_party_shards_read_the_same(entries):
    """One reader for both ways in: the same objects, and the same counts."""
    entries = [*entries, GOOD]
    mine = [
        AnnotationEntry(number, 1, e["category_id"], e["bbox"], e["area"], e["iscrowd"], e.get("ignore"))
        for number, e in enumerate(entries, start=1)
    ]
    outlined = [
        OutlinedEntry(*(getattr(a, n) for n in a.__struct_fields__), e.get("segmentation"))
        for a, e in zip(mine, entries, strict=True)
    ]
    content = CocoFile([ImageEntry(1, "a", W, H)], outlined, CATEGORIES)
    converted = check_content(content, Path("a.json"))
    own = json.loads(converted.images[0].annotation)
    report = Report()
    read = read_annotations(
        json.dumps({"annotations": entries}).encode(), name="a", size_hw=(H, W), report=report
    )
    assert list(read.kinds) == own["category_ids"]
    assert [list(box) for box in read.boxes_xywh] == own["boxes_xywh"]
    assert list(read.areas) == own["areas"]
    assert list(read.iscrowd) == own["iscrowd"]
    assert dict(sorted(report.close().counts.items())) == converted.report
