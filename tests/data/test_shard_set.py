"""A folder of shards: what it refuses, what it gives back, who else can read it."""

import json
import tarfile

import numpy as np
import pytest

from data_prep.coco_to_shards import Conversion, convert
from qdet.data.shards.manifest import digest_of
from qdet.data.shards.shard_set import ShardSet
from qdet.errors import DataError


@pytest.fixture
def converted(make_coco, tmp_path):
    root, content = make_coco(20)
    convert(Conversion(coco=root, split="train", out=tmp_path / "shards", shard_megabytes=0.02, processes=1))
    return tmp_path / "shards", root, content


def test_ground_truth_is_the_annotation_file_again(converted):
    folder, _, content = converted
    truth = ShardSet.open(folder).ground_truth()
    assert sorted(truth["images"], key=lambda x: x["id"]) == content["images"]
    assert sorted(truth["annotations"], key=lambda x: x["id"]) == content["annotations"]
    assert truth["categories"] == sorted(content["categories"], key=lambda x: x["id"])


def test_ground_truth_of_real_annotations(coco_root, tmp_path):
    convert(Conversion(coco=coco_root, split="train2017", out=tmp_path, decode=False, processes=1))
    content = json.loads((coco_root / "annotations" / "instances_train2017.json").read_text())
    shards = ShardSet.open(tmp_path)
    truth = shards.ground_truth()
    given = {a["id"]: a for a in content["annotations"]}
    assert len(truth["annotations"]) == len(given)
    for a in truth["annotations"]:
        assert a == {name: given[a["id"]][name] for name in a}
    assert len(shards) == 96
    assert len(shards.categories) == 80
    assert shards.categories.original(np.array([0, 79])).tolist() == [1, 90]


def test_images_are_byte_for_byte_those_of_the_dataset(converted):
    folder, root, content = converted
    shards = ShardSet.open(folder)
    names = {image["id"]: image["file_name"] for image in content["images"]}
    for row in range(len(shards)):
        original = root / "train" / names[int(shards.index.image_id[row])]
        assert shards.read_image(row) == original.read_bytes()


def test_webdataset_reads_the_shards_unchanged(converted):
    import webdataset

    folder, root, content = converted
    urls = sorted(str(p) for p in folder.glob("*.tar"))
    samples = list(webdataset.WebDataset(urls, shardshuffle=False).decode())
    assert len(samples) == len(content["images"])
    names = {image["id"]: image["file_name"] for image in content["images"]}
    for sample in webdataset.WebDataset(urls, shardshuffle=False):
        note = json.loads(sample["json"])
        assert sample["__key__"] == f"{note['image_id']:012d}"
        assert sample["jpg"] == (root / "train" / names[note["image_id"]]).read_bytes()


def test_dali_index_lists_what_the_tar_holds(converted):
    folder, _, _ = converted
    for index in folder.glob("*.idx"):
        version, *lines = index.read_text().splitlines()
        assert version == f"v1.2 {len(lines)}"
        listed = [tuple(line.split()[k : k + 4]) for line in lines for k in (0, 4)]
        with tarfile.open(index.with_suffix(".tar")) as tar:
            members = [(m.name.rsplit(".")[-1], str(m.offset_data), str(m.size), m.name) for m in tar]
        assert listed == members


def test_a_truncated_shard_is_found_when_the_set_is_opened(converted):
    folder, _, _ = converted
    shard = sorted(folder.glob("*.tar"))[1]
    shard.write_bytes(shard.read_bytes()[:-1000])
    with pytest.raises(DataError, match=f"{shard.name} has .* it is truncated"):
        ShardSet.open(folder)


def test_a_shard_truncated_after_opening_is_found_by_the_read(converted):
    folder, _, _ = converted
    shards = ShardSet.open(folder)
    last = len(shards) - 1
    shard = folder / shards.manifest["shardlist"][-1]["url"]
    with shard.open("r+b") as file:
        file.truncate(int(shards.index.image_offset[last]) + 10)
    with pytest.raises(DataError, match=f"{shard.name} ends at byte .* truncated"):
        shards.read_image(last)


def test_a_missing_shard_and_a_missing_manifest_are_named(converted, tmp_path):
    folder, _, _ = converted
    with pytest.raises(DataError, match=r"holds no shards.*python -m data_prep\.coco_to_shards"):
        ShardSet.open(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"holds no shards.*make demo"):
        ShardSet.open(tmp_path / "data/demo/shards/train")
    next(folder.glob("*.tar")).unlink()
    with pytest.raises(DataError, match=r"\.tar is listed in manifest\.json but cannot be read"):
        ShardSet.open(folder)


def test_a_foreign_manifest_index_or_layout_is_refused(converted):
    folder, _, _ = converted
    manifest = folder / "manifest.json"
    text = manifest.read_text()
    manifest.write_text(text.replace('"schema": 1', '"schema": 9'))
    with pytest.raises(DataError, match="layout 9"):
        ShardSet.open(folder)
    manifest.write_text("[]")
    with pytest.raises(DataError, match="was not written by"):
        ShardSet.open(folder)
    manifest.write_text(text)
    (folder / "index.npz").write_bytes(b"other")
    with pytest.raises(DataError, match=r"index\.npz does not belong to"):
        ShardSet.open(folder)


def test_commands_and_unknown_urls_are_refused(converted):
    for source, said in {
        "pipe:cat x.tar": "commands are not run",
        "gopher://host/coco": "no way to read gopher://",
        "data/{a,b.tar": "braces do not pair up",
        "{a,a}.tar": "more than once",
    }.items():
        with pytest.raises(DataError, match=said):
            ShardSet.open(source)
    folder, _, _ = converted
    manifest = folder / "manifest.json"
    text = manifest.read_text()
    for url, said in {"pipe:id": "commands are not run", "../other/a.tar": "outside of it"}.items():
        changed = json.loads(text)
        changed["shardlist"][0]["url"] = url
        manifest.write_text(json.dumps(changed))
        with pytest.raises(DataError, match="is damaged or was edited"):
            ShardSet.open(folder)
        changed["digest"] = digest_of(changed["categories"], changed["shardlist"])
        manifest.write_text(json.dumps(changed))
        with pytest.raises(DataError, match=said):
            ShardSet.open(folder)
