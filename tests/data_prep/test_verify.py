"""Verifying shards: intact ones pass, damaged ones are named."""

import json

import numpy as np
import pytest

from data_prep.coco_to_shards import Conversion, convert
from data_prep.verify import Verification, main, verify
from qdet.data.shards.shard_set import ShardSet
from qdet.errors import ConfigError, DataError


@pytest.fixture
def folder(make_coco, tmp_path):
    root, _ = make_coco(12)
    convert(Conversion(coco=root, split="train", out=tmp_path / "shards", shard_megabytes=0.01, processes=1))
    return tmp_path / "shards"


@pytest.mark.parametrize("flags", [{}, {"fast": True}, {"decode": True}])
def test_intact_shards_pass(folder, flags):
    assert verify(Verification(folder=folder, **flags))["images"] == 12


def test_every_flipped_byte_is_found_and_its_shard_named(folder, capsys):
    shard = sorted(folder.glob("*.tar"))[1]
    whole = shard.read_bytes()
    index = ShardSet.open(folder).index
    rng = np.random.default_rng(0)
    for at in rng.integers(0, len(whole), 60).tolist():
        data = bytearray(whole)
        data[at] ^= int(rng.integers(1, 256))
        shard.write_bytes(data)
        with pytest.raises(
            DataError, match=r"is (not what was written|damaged between its samples)"
        ) as raised:
            verify(Verification(folder=folder))
        message = str(raised.value)
        assert shard.name in message
        begins = np.concatenate((index.image_offset, index.annotation_offset))
        ends = begins + np.concatenate((index.image_length, index.annotation_length))
        hit = np.flatnonzero((begins <= at) & (at < ends) & (np.tile(index.shard, 2) == 1)) % len(index)
        keys = [f"{index.image_id[row]:012d}" for row in hit]
        assert all(f"sample {key}" in message for key in keys)
        assert bool(keys) or "between its samples" in message
    with pytest.raises(SystemExit):
        main([str(folder)])
    assert shard.name in capsys.readouterr().err


def test_a_truncated_shard_is_found_by_its_size(folder):
    shard = sorted(folder.glob("*.tar"))[0]
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(DataError, match=f"{shard.name} has .* truncated"):
        verify(Verification(folder=folder, fast=True))
    shard.unlink()
    with pytest.raises(DataError, match=rf"{shard.name}.*cannot be read"):
        verify(Verification(folder=folder, fast=True))


def test_a_wrong_dali_index_is_found(folder):
    idx = sorted(folder.glob("*.idx"))[0]
    whole = idx.read_text()
    for changed in (whole.replace("jpg 512", "jpg 513"), whole.replace("v1.2", "v1.1"), whole[:-20], "", "é"):
        assert changed != whole
        idx.write_text(changed)
        with pytest.raises(DataError, match=idx.name):
            verify(Verification(folder=folder, fast=True))
    idx.unlink()
    with pytest.raises(DataError, match=idx.name):
        verify(Verification(folder=folder, fast=True))


def test_a_changed_manifest_is_found(folder):
    file = folder / "manifest.json"
    manifest = json.loads(file.read_text())
    file.write_text(json.dumps(manifest | {"categories": manifest["categories"][:1]}))
    with pytest.raises(DataError, match="its shards and categories do not have its digest"):
        verify(Verification(folder=folder, fast=True))
    file.write_text(json.dumps(manifest | {"counts": manifest["counts"] | {"boxes": 1}}))
    with pytest.raises(DataError, match="disagree on the number of images or boxes"):
        verify(Verification(folder=folder, fast=True))


def test_fast_and_decode_exclude_each_other(folder):
    with pytest.raises(ConfigError, match="--fast reads no shard"):
        Verification(folder=folder, fast=True, decode=True)


def test_images_that_do_not_decode_are_listed(make_coco, tmp_path):
    root, content = make_coco(3, name="damaged")
    file = root / "train" / content["images"][1]["file_name"]
    data = bytearray(file.read_bytes())
    data[-302:-2] = b"\xff\xd5" * 150  # marks that belong elsewhere; the end-of-image marker stays
    file.write_bytes(data)
    convert(Conversion(coco=root, split="train", out=tmp_path / "damaged", processes=1, decode=False))
    verify(Verification(folder=tmp_path / "damaged"))
    with pytest.raises(DataError, match="sample 000000000011 is no readable jpg"):
        verify(Verification(folder=tmp_path / "damaged", decode=True))
