"""One shard: a plain tar whose members are where the index, DALI and other readers expect them."""

import hashlib
import io
import json
import tarfile
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from data_prep.coco_to_shards import Conversion, convert
from data_prep.packing.shard_plan import _cut
from data_prep.packing.tar import HashingFile, SampleTar
from qdet.data.shards.shard_set import ShardSet
from qdet.errors import DataError


@pytest.fixture
def conversion(make_coco, tmp_path):
    """A conversion of JPEGs and one PNG, whose extension sorts after `json`."""
    root, content = make_coco(9)
    pixels = np.random.default_rng(0).integers(0, 255, (40, 60, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(root / "train" / content["images"][0]["file_name"], "PNG")
    return Conversion(coco=root, split="train", out=tmp_path / "out", shard_megabytes=0.006, processes=1)


def test_members_are_where_the_index_says(conversion):
    convert(conversion)
    shards = ShardSet.open(conversion.out)
    found = {}
    for number, shard in enumerate(shards.manifest["shardlist"]):
        data = (conversion.out / shard["url"]).read_bytes()
        assert len(data) == shard["filesize"]
        assert len(data) % tarfile.RECORDSIZE == 0
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
            for member in tar:
                assert (member.uid, member.gid, member.uname, member.gname) == (0, 0, "", "")
                assert (member.mode, member.mtime, member.type) == (0o644, 0, tarfile.REGTYPE)
                found[member.name] = (number, member.offset_data, member.size)
    i = shards.index
    expected = {}
    for row, image_id in enumerate(i.image_id.tolist()):
        kind = "png" if image_id == 10 else "jpg"
        expected[f"{image_id:012d}.{kind}"] = (i.shard[row], i.image_offset[row], i.image_length[row])
        expected[f"{image_id:012d}.json"] = (i.shard[row], i.annotation_offset[row], i.annotation_length[row])
    assert found == expected


def test_dali_finds_every_file(conversion):
    convert(conversion)
    for idx in conversion.out.glob("*.idx"):
        with tarfile.open(idx.with_suffix(".tar"), mode="r:") as tar:
            members = [(m.name.rpartition(".")[2], m.offset_data, m.size, m.name) for m in tar]
        first, *lines = idx.read_text().splitlines()
        assert first == f"v1.2 {len(lines)}"
        words = [word for line in lines for word in line.split()]
        listed = list(zip(words[::4], map(int, words[1::4]), map(int, words[2::4]), words[3::4], strict=True))
        assert listed == members
        assert all(len(line.split()) == 8 for line in lines)


@given(st.lists(st.tuples(st.integers(0, 1500), st.integers(0, 1500)), max_size=8))
@settings(max_examples=30, deadline=None)
def test_the_bytes_equal_webdatasets_own_writer(sizes):
    from webdataset.writer import TarWriter

    theirs, ours = io.BytesIO(), io.BytesIO()
    writer = TarWriter(theirs, user="", group="", mode=0o644, mtime=0, encoder=False)
    hashing = HashingFile(ours)
    tar = SampleTar(hashing)
    rng = np.random.default_rng(sum(map(sum, sizes)))
    for number, (image, annotation) in enumerate(sizes):
        files = {"jpg": rng.bytes(image), "json": rng.bytes(annotation)}
        writer.write({"__key__": f"{number:012d}", **files})
        begins = tar.add(f"{number:012d}", files)
        for extension, data in files.items():
            assert ours.getvalue()[begins[extension] :][: len(data)] == data
    writer.close()
    tar.close()
    assert ours.getvalue() == theirs.getvalue()
    assert hashing.sha256.hexdigest() == hashlib.sha256(ours.getvalue()).hexdigest()
    assert hashing.size == len(ours.getvalue())


def test_webdataset_reads_every_byte(conversion):
    import webdataset

    convert(conversion)
    tars = sorted(str(p) for p in conversion.out.glob("*.tar"))
    samples = list(webdataset.WebDataset(tars, shardshuffle=False, empty_check=False))
    names = {image["id"]: image["file_name"] for image in _content(conversion)["images"]}
    assert sorted(int(s["__key__"]) for s in samples) == sorted(names)
    for sample in samples:
        file = conversion.coco / "train" / names[int(sample["__key__"])]
        assert sample.get("jpg", sample.get("png")) == file.read_bytes()
        assert json.loads(sample["json"])["file_name"] == file.name


def test_the_manifest_is_what_wids_reads(conversion):
    convert(conversion)
    manifest = json.loads((conversion.out / "manifest.json").read_text())
    assert (manifest["__kind__"], manifest["wids_version"]) == ("wids-shard-index-v1", 1)
    for shard in manifest["shardlist"]:
        with tarfile.open(conversion.out / shard["url"]) as tar:
            assert shard["nsamples"] == len({name.partition(".")[0] for name in tar.getnames()})
        assert shard["filesize"] == (conversion.out / shard["url"]).stat().st_size


def test_dropped_images_are_listed_and_add_up(conversion):
    content = _content(conversion)
    first, second = (image["file_name"] for image in content["images"][1:3])
    (conversion.coco / "train" / first).write_bytes(b"nothing")
    whole = (conversion.coco / "train" / second).read_bytes()
    (conversion.coco / "train" / second).write_bytes(whole[:-1])
    with pytest.raises(DataError, match="1 image is bad"):
        convert(conversion)
    with pytest.raises(DataError, match="2 images are bad, --max-bad 1 allows 1"):
        convert(replace(conversion, max_bad=1, shard_megabytes=1, out=conversion.out / "one"))
    manifest = convert(replace(conversion, max_bad=2))
    assert [d["file_name"] for d in sorted(manifest["dropped_images"], key=lambda d: d["image_id"])] == [
        first,
        second,
    ]
    assert manifest["listed"] == {"images": 9, "boxes": len(content["annotations"])}
    assert manifest["counts"]["images"] == 7
    lost = sum(a["image_id"] in (11, 12) for a in content["annotations"])
    assert manifest["report"] == {"dropped_images_unreadable": 2, "dropped_with_their_image": lost}
    assert manifest["counts"]["boxes"] == len(content["annotations"]) - lost
    shards = ShardSet.open(conversion.out)
    assert sorted(shards.index.image_id.tolist()) == [10, *range(13, 19)]
    crowds = [a for a in content["annotations"] if a["iscrowd"] and a["image_id"] not in (11, 12)]
    assert manifest["counts"]["crowds"] == len(crowds)
    with pytest.raises(DataError, match="2 images are bad, --max-bad 0"):
        convert(conversion)  # the finished conversion dropped more than the limit allows now


def test_the_limit_covers_all_shards_together(conversion):
    content = _content(conversion)
    for image in content["images"]:
        (conversion.coco / "train" / image["file_name"]).write_bytes(b"nothing")
    with pytest.raises(DataError, match="9 images are bad, --max-bad 4 allows 4"):
        convert(replace(conversion, max_bad=4))
    assert not (conversion.out / "manifest.json").exists()


def test_images_without_boxes_can_be_dropped(conversion):
    content = _content(conversion)
    with_boxes = {a["image_id"] for a in content["annotations"]}
    manifest = convert(replace(conversion, drop_empty=True))
    assert manifest["report"] == {"dropped_images_without_boxes": 9 - len(with_boxes)}
    assert set(ShardSet.open(conversion.out).index.image_id.tolist()) == with_boxes


def test_a_file_with_bytes_after_its_end_is_decoded_and_kept(conversion):
    file = conversion.coco / "train" / _content(conversion)["images"][1]["file_name"]
    file.write_bytes(file.read_bytes() + bytes(8))
    assert convert(conversion)["counts"]["images"] == 9


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, 40), min_size=1, max_size=30), st.integers(1, 60))
def test_shards_are_as_large_as_allowed_and_hold_everything_once(lengths, limit):
    cuts = _cut(lengths, limit)
    assert [i for begin, end in cuts for i in range(begin, end)] == list(range(len(lengths)))
    for begin, end in cuts:
        assert end - begin == 1 or sum(lengths[begin:end]) <= limit
        assert end == len(lengths) or sum(lengths[begin : end + 1]) > limit


def _content(conversion):
    return json.loads((conversion.coco / "annotations" / "instances_train.json").read_text())
