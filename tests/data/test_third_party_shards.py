"""WebDataset shards that others packed: the same samples as webdataset gives, or an error that names them."""

import hashlib
import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
import webdataset
from webdataset.tariterators import group_by_keys

from qdet.data.augment import AugmentConfig
from qdet.data.loading.in_memory import InMemorySamples, parse_sample
from qdet.data.loading.planned_stream import EvalStream, TrainStream
from qdet.data.loading.sequential_stream import SequentialStream
from qdet.data.loading.stream_config import StreamConfig
from qdet.data.shards.locate import Access
from qdet.data.shards.sequential_read import files_of
from qdet.data.shards.sequential_set import SequentialSet
from qdet.data.shards.shard_set import ShardSet
from qdet.errors import DataError

H, W = 24, 36
CATEGORIES = [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}]
BOXES = [[2.0, 3.0, 10.0, 12.5], [0.0, 0.0, 36.0, 24.0]]
"""x, y, width, height of every image's objects: a cat and a dog."""


def _jpeg(seed: int, hw: tuple[int, int] = (H, W)) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (*hw, 3), dtype=np.uint8)
    return simplejpeg.encode_jpeg(pixels, quality=80)


FORMS = {
    "ours": lambda i: {
        "image_id": 100 + i,
        "file_name": f"{i}.jpg",
        "width": W,
        "height": H,
        "annotation_ids": [5, 5],
        "category_ids": [3, 7],
        "boxes_xywh": BOXES,
        "areas": [1.0, 2.0],
        "iscrowd": [0, 0],
    },
    "coco": lambda i: {
        "image": {"id": 100 + i, "width": W, "height": H},
        "annotations": [{"bbox": b, "category_id": c} for b, c in zip(BOXES, (3, 7), strict=True)],
        "categories": CATEGORIES,
    },
    "coco flat": lambda i: {
        "id": 100 + i,
        "width": W,
        "height": H,
        "annotations": [
            {"bbox": b, "category_id": c, "category_name": n, "iscrowd": 0, "area": 4.0}
            for b, c, n in zip(BOXES, (3, 7), ("cat", "dog"), strict=True)
        ],
    },
    "coco list": lambda i: [{"bbox": b, "category_id": c} for b, c in zip(BOXES, (3, 7), strict=True)],
    "hugging face": lambda i: {"image_id": 100 + i, "objects": {"bbox": BOXES, "category": [3, 7]}},
    "torchvision": lambda i: {
        "boxes": [[x, y, x + w, y + h] for x, y, w, h in BOXES],
        "labels": ["cat", "dog"],
    },
}


def _pack(
    folder: Path, note=FORMS["coco"], *, shards: int = 3, each: int = 4, key: str = "{:06d}"
) -> list[str]:
    """Write shards with webdataset's own writer, whose headers carry PAX records; returns their names."""
    folder.mkdir(parents=True, exist_ok=True)
    for k in range(shards):
        with webdataset.TarWriter(str(folder / f"s-{k:03d}.tar")) as tar:
            for i in range(k * each, (k + 1) * each):
                tar.write({"__key__": key.format(i), "jpg": _jpeg(i), "json": json.dumps(note(i))})
    return [str(folder / f"s-{k:03d}.tar") for k in range(shards)]


@pytest.fixture
def access(tmp_path: Path) -> Access:
    names = tmp_path / "categories.json"
    names.write_text(json.dumps({"categories": CATEGORIES}))
    return Access(cache=str(tmp_path / "cache"), categories=str(names))


@pytest.mark.parametrize("form", FORMS)
def test_every_annotation_form_gives_the_same_boxes_and_webdatasets_images(form, tmp_path, access):
    names = _pack(tmp_path / "set", FORMS[form])
    shards = ShardSet.open(tmp_path / "set", access)
    expected = list(webdataset.WebDataset(names, shardshuffle=False, empty_check=False))
    assert [shards.read_image(row) for row in range(len(shards))] == [sample["jpg"] for sample in expected]
    assert [shards.key_of(row) for row in range(len(shards))] == [sample["__key__"] for sample in expected]
    ids = range(100, 112) if form in ("ours", "coco", "coco flat", "hugging face") else range(12)
    for row, image_id in enumerate(ids):
        sample = shards.read_annotation(row)
        assert sample["image_id"] == int(shards.index.image_id[row]) == image_id
        assert (sample["width"], sample["height"]) == (W, H)
        assert sample["boxes_xywh"] == BOXES
        assert sample["category_ids"] == [3, 7]
        assert sample["iscrowd"] == [0, 0]
        assert sample["annotation_ids"] == [2 * row + 1, 2 * row + 2]
    assert shards.categories.names == ("cat", "dog")
    areas = {"ours": [1.0, 2.0], "coco flat": [4.0, 4.0]}.get(form, [125.0, 864.0])
    assert shards.read_annotation(0)["areas"] == areas
    truth = shards.ground_truth()
    assert len({annotation["id"] for annotation in truth["annotations"]}) == 24


def test_third_party_shards_train_and_evaluate_like_converted_ones(tmp_path):
    _pack(tmp_path / "set")
    shards = ShardSet.open(tmp_path / "set")
    small = AugmentConfig(sizes=(32,), max_size=64)
    received = [
        i
        for (batch,) in TrainStream(shards, small, StreamConfig(batch_size=4, seed=0)).steps(0, 3)
        for i in batch.image_ids.tolist()
    ]
    assert sorted(received) == list(range(100, 112))
    batches = list(EvalStream(shards, small, StreamConfig(batch_size=5)))
    assert sum(int(batch.valid.sum()) for batch in batches) == 12
    assert {tuple(batch.targets.labels[:2].tolist()) for batch in batches} == {(0, 1)}


def test_a_pattern_a_list_of_patterns_and_a_server_give_the_same_set(tmp_path, serve, access):
    _pack(tmp_path / "set")
    whole = ShardSet.open(tmp_path / "set")
    images = [whole.read_image(row) for row in range(12)]
    server = serve(tmp_path / "set")
    for source in (
        f"{tmp_path}/set/s-{{000..002}}.tar",
        f"{tmp_path}/set/s-00{{0,1}}.tar::{tmp_path}/set/s-002.tar",
        f"file://{tmp_path}/set/s-{{000..002}}.tar",
        f"{server.url}/s-{{000..002}}.tar",
    ):
        shards = ShardSet.open(source, access)
        assert [shards.read_image(row) for row in range(12)] == images
    asked = dict(server.gets)
    assert asked == {f"/s-00{k}.tar": 1 for k in range(3)}  # scanned where they were cached
    ShardSet.open(f"{server.url}/s-{{000..002}}.tar", access)
    assert dict(server.gets) == asked


def test_a_set_is_scanned_once_and_again_when_it_changes(tmp_path, monkeypatch, capsys):
    names = _pack(tmp_path / "set")
    first = ShardSet.open(tmp_path / "set")
    assert capsys.readouterr().out.count("reading 3 shards once") == 1
    assert ShardSet.open(tmp_path / "set").digest == first.digest
    assert not capsys.readouterr().out
    _pack(tmp_path / "set", FORMS["coco flat"])
    changed = ShardSet.open(tmp_path / "set")
    assert capsys.readouterr().out.count("reading 3 shards once") == 1
    assert changed.digest != first.digest
    Path(names[1]).unlink()
    assert len(ShardSet.open(tmp_path / "set")) == 8


def test_the_scan_is_cached_when_the_shards_folder_is_read_only(tmp_path, access):
    _pack(tmp_path / "set")
    (tmp_path / "set" / ".qdet-index").touch()  # a folder of this name cannot be made
    shards = ShardSet.open(tmp_path / "set", access)
    assert shards.path.parent == access.folder / "indexes"
    assert ShardSet.open(tmp_path / "set", access).path == shards.path


def test_keys_that_are_no_numbers_are_hashed(tmp_path, access):
    _pack(tmp_path / "set", FORMS["coco list"], key="räum/bild-{}")
    shards = ShardSet.open(tmp_path / "set", access)
    digest = hashlib.sha256("räum/bild-5".encode()).hexdigest()
    assert int(shards.index.image_id[5]) == int(digest[:16], 16) // 2
    assert shards.name_of(5).endswith("s-001.tar, sample räum/bild-5")
    assert shards.read_annotation(5)["file_name"] == "räum/bild-5"


def _some_ids(i: int) -> object:
    """Every third sample has an integer id, every third a string, every third none."""
    boxes = {"boxes": [[i, 1.0, i + 2.0, 9.0]], "labels": [("cat", "dog")[i % 2]]}
    return boxes | [{"image_id": 1000 + i}, {"image_id": f"n{i}"}, {}][i % 3]


SAMPLE_IDS = {
    "JSON ids": (FORMS["coco"], "{:06d}"),
    "JSON ids and names": (FORMS["coco"], "bild-{}"),
    "numeric keys": (FORMS["torchvision"], "{:06d}"),
    "names": (FORMS["torchvision"], "bild-{}"),
    "numbers in folders": (FORMS["torchvision"], "train/{:06d}"),
    "string ids": (lambda i: FORMS["torchvision"](i) | {"image_id": f"n{i}"}, "{:06d}"),
    "some ids, numeric keys": (_some_ids, "{:06d}"),
    "some ids, names": (_some_ids, "räum/bild-{}"),
}


@pytest.mark.parametrize("case", SAMPLE_IDS)
def test_both_ways_of_reading_give_a_sample_the_same_id_and_boxes(case, tmp_path, access):
    note, key = SAMPLE_IDS[case]
    _pack(tmp_path / "set", note, key=key)
    shards = ShardSet.open(tmp_path / "set", access)
    by_offset = {
        (int(shards.index.image_id[row]), shards.key_of(row)): _boxes(shards.read_annotation(row))
        for row in range(len(shards))
    }
    dataset = SequentialSet.open(str(tmp_path / "set"), access, images=12)
    in_order = {}
    for shard in dataset.shards:
        for raw in group_by_keys(files_of(shard, ())):
            sample = parse_sample(raw, dataset.categories, access.max_pixels)
            held = InMemorySamples((sample,), dataset.categories, access.max_pixels)
            in_order[int(held.index.image_id[0]), sample.key] = _boxes(held.read_annotation(0))
    assert len(by_offset) == 12
    assert len({image_id for image_id, _ in by_offset}) == 12
    assert in_order == by_offset


def _boxes(sample: dict) -> tuple:
    return sample["image_id"], sample["boxes_xywh"], sample["category_ids"]


def test_an_unreadable_image_is_counted_under_the_id_of_its_json(tmp_path, access):
    """As by offset, where the index knows the id: a worker that reads so counts the same image."""
    members = [("a.jpg", b"text"), ("a.json", OTHER), ("b.jpg", IMAGE), ("b.json", NOTE)]
    _tar(tmp_path / "x.tar", members)
    dataset = SequentialSet.open(str(tmp_path / "x.tar"), access, images=1)
    stream = SequentialStream(dataset, AugmentConfig(), StreamConfig(batch_size=1, max_bad=1), shuffle=1)
    assert [batch.image_ids.tolist() for step in stream.steps(0, 3) for batch in step] == [[100]] * 3
    assert set(stream.bad.reasons) == {101}


def test_the_same_number_in_two_folders_is_two_images(tmp_path, access):
    for k, folder in enumerate(("a", "b")):
        _tar(tmp_path / "set" / f"x-{k}.tar", [(f"{folder}/1.jpg", IMAGE), (f"{folder}/1.json", b"[]")])
    assert len(set(ShardSet.open(tmp_path / "set", access).index.image_id.tolist())) == 2


def test_an_id_of_the_json_that_is_the_number_of_another_key_is_refused(tmp_path, access):
    members = [("a.jpg", IMAGE), ("a.json", NOTE), ("100.jpg", IMAGE), ("100.json", b"[]")]
    _tar(tmp_path / "set" / "x.tar", members)
    with pytest.raises(
        DataError, match=r"sample 100: its image id 100 is also in .* an id of its own in its"
    ):
        ShardSet.open(tmp_path / "set", access)


def test_an_index_of_an_earlier_version_is_made_anew(tmp_path, access, monkeypatch, capsys):
    _pack(tmp_path / "set", FORMS["coco list"], key="bild-{}")
    monkeypatch.setattr("qdet.data.shards.index_third_party.SCAN", 1)
    earlier = ShardSet.open(tmp_path / "set", access)
    monkeypatch.undo()
    capsys.readouterr()
    now = ShardSet.open(tmp_path / "set", access)
    assert "reading 3 shards once" in capsys.readouterr().out
    assert (now.path != earlier.path, now.digest) == (True, earlier.digest)


def test_classes_without_names_and_unknown_classes_are_refused(tmp_path, access):
    _pack(tmp_path / "set", FORMS["coco list"])
    with pytest.raises(DataError, match=r"what its classes are called.*--data\.categories"):
        ShardSet.open(tmp_path / "set")
    Path(access.categories or "").write_text(json.dumps(CATEGORIES[:1]))
    with pytest.raises(DataError, match=r"categories\.json does not list: 7"):
        ShardSet.open(tmp_path / "set", access)
    for content, said in {"{": "is not JSON", "{}": "has no list `categories`"}.items():
        Path(access.categories or "").write_text(content)
        with pytest.raises(DataError, match=said):
            ShardSet.open(tmp_path / "set", access)
    with pytest.raises(DataError, match=r"--data\.categories /nowhere cannot be read"):
        ShardSet.open(tmp_path / "set", Access(categories="/nowhere"))


NOTE = json.dumps(FORMS["coco"](0)).encode()
IMAGE = _jpeg(0)


def _tar(path: Path, members: Sequence[tuple[str, bytes] | tarfile.TarInfo]) -> None:
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                tar.addfile(info, io.BytesIO(member[1]))


def _special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


GOOD = [("a.jpg", IMAGE), ("a.json", NOTE)]
OTHER = json.dumps(FORMS["coco"](1)).encode()
BAD = {
    "dotted": ([("a.v1.jpg", IMAGE), ("a.v1.json", NOTE)], r"member a\.v1\.jpg has more than one dot"),
    "unpaired image": ([*GOOD, ("b.jpg", IMAGE)], r"sample b: has 1 images and 0 JSON files"),
    "unpaired json": ([*GOOD, ("b.json", NOTE)], r"sample b: has 0 images and 1 JSON files"),
    "two images": ([*GOOD, ("a.png", IMAGE)], r"sample a: has 2 images"),
    "parts apart": (
        [("a.jpg", IMAGE), ("b.jpg", IMAGE), ("b.json", OTHER), ("a.json", NOTE)],
        r"sample a: (has 1 images and 0 JSON|comes more than once)",
    ),
    "key twice": ([*GOOD, ("b.jpg", IMAGE), ("b.json", OTHER), *GOOD], r"sample a: comes more than once"),
    "id twice": ([*GOOD, ("b.jpg", IMAGE), ("b.json", NOTE)], r"sample b: its image id 100 is also in"),
    "no extension": ([*GOOD, ("README", b"hello")], r"member README is not named KEY\.jpg"),
    "absolute": ([("/a.jpg", IMAGE), ("/a.json", NOTE)], r"member /a\.jpg leads out of the shard"),
    "upwards": ([("../a.jpg", IMAGE), ("../a.json", NOTE)], r"member \.\./a\.jpg leads out of the shard"),
    "symbolic link": ([*GOOD, _special("b.jpg", tarfile.SYMTYPE, "/etc/passwd")], r"b\.jpg is no plain file"),
    "hard link": ([*GOOD, _special("b.jpg", tarfile.LNKTYPE, "a.jpg")], r"b\.jpg is no plain file"),
    "device": ([*GOOD, _special("b.jpg", tarfile.CHRTYPE)], r"b\.jpg is no plain file"),
    "pickle": ([*GOOD, ("a.pyd", b"")], r"member a\.pyd is a pickle"),
    "no json": ([("a.jpg", IMAGE), ("a.json", b"{")], r"sample a: its JSON cannot be read"),
    "unknown form": (
        [("a.jpg", IMAGE), ("a.json", b'{"label": 3}')],
        r"sample a: its JSON is in no known form",
    ),
    "huge id": (
        [("a.jpg", IMAGE), ("a.json", b'{"id": 9223372036854775808, "annotations": []}')],
        r"sample a: its JSON is in no known form .*image id 9223372036854775808 has more than 64 bits",
    ),
    "no image": ([("a.jpg", b"text"), ("a.json", NOTE)], r"sample a: the image is no JPEG"),
    "other size": (
        [("a.jpg", _jpeg(0, (20, 30))), ("a.json", NOTE)],
        r"is 30x20 pixels, its JSON says 36x24",
    ),
    "empty": ([], r"has no samples"),
}


@pytest.mark.parametrize("case", BAD)
def test_samples_that_webdataset_would_lose_or_mix_are_refused_by_name(case, tmp_path, access):
    members, said = BAD[case]
    _tar(tmp_path / "set" / "x-000.tar", members)
    with pytest.raises(DataError, match=said) as error:
        ShardSet.open(tmp_path / "set", access)
    assert case == "empty" or "x-000.tar" in str(error.value)
    assert not list((tmp_path / "set" / ".qdet-index").glob("*/index.npz"))


def test_keys_must_differ_over_all_shards(tmp_path, access):
    for k in range(2):
        _tar(tmp_path / "set" / f"x-{k}.tar", GOOD)
    with pytest.raises(DataError, match=r"x-1\.tar, sample a: its key a is also in .*x-0\.tar"):
        ShardSet.open(tmp_path / "set", access)


def test_an_image_with_too_many_pixels_is_refused_by_its_header(tmp_path, access):
    header = bytearray(_jpeg(0))
    place = header.index(b"\xff\xc0") + 5
    header[place : place + 4] = (60000).to_bytes(2, "big") * 2
    _tar(tmp_path / "set" / "x.tar", [("a.jpg", bytes(header)), ("a.json", b"[]")])
    with pytest.raises(DataError, match=r"sample a: the image has 60000x60000 pixels, more than"):
        ShardSet.open(tmp_path / "set", access)


def test_folders_other_files_and_webdatasets_metadata_are_ignored(tmp_path):
    folder = _special("train", tarfile.DIRTYPE)
    sample = [("train/a.jpg", IMAGE), ("train/a.txt", b"x"), ("train/a.json", NOTE)]
    _tar(tmp_path / "set" / "x.tar", [folder, ("__info__", b"{}"), *sample])
    _tar(tmp_path / "set" / "y.tar", [])  # a shard may be empty
    shards = ShardSet.open(tmp_path / "set")
    assert (len(shards), shards.key_of(0), shards.read_image(0)) == (1, "train/a", IMAGE)


def test_compressed_tars_and_other_files_are_refused(tmp_path):
    (tmp_path / "set").mkdir()
    for mode, said in (("w:gz", r"damaged .* or is no uncompressed tar"), ("w:xz", "compressed by xz")):
        with tarfile.open(tmp_path / "set" / "x.tar", mode):
            pass
        with pytest.raises(DataError, match=rf"x\.tar is {said}"):
            ShardSet.open(tmp_path / "set")
    (tmp_path / "set" / "x.tar").write_bytes(b"")
    with pytest.raises(DataError, match=r"x\.tar is damaged"):
        ShardSet.open(tmp_path / "set")


@pytest.mark.parametrize("case", sorted(BAD.keys() - {"id twice", "empty"}))
def test_sequential_reading_refuses_the_same_samples(case, tmp_path, access):
    """All but what takes a look at all shards first: an id that comes twice, and a set without a sample."""
    members, said = BAD[case]
    _tar(tmp_path / "x-000.tar", members)
    dataset = SequentialSet.open(str(tmp_path / "x-000.tar"), access, images=1)
    stream = SequentialStream(dataset, AugmentConfig(), StreamConfig(batch_size=1, seed=0), shuffle=1)
    with pytest.raises(DataError, match=said) as error:
        list(stream.steps(0, 4))
    assert "x-000.tar" in str(error.value)
