"""Verifying shards: quiet when they are whole, exact about what is damaged."""

import pytest

from data_prep.coco_to_shards import Conversion, convert
from data_prep.verify import Verification, main, verify
from qdet.errors import DataError


@pytest.fixture
def folder(make_coco, tmp_path):
    root, _ = make_coco(12)
    convert(Conversion(coco=root, split="train", out=tmp_path / "shards", shard_megabytes=0.01, processes=1))
    return tmp_path / "shards"


@pytest.mark.parametrize("decode", [False, True])
def test_whole_shards_pass(folder, decode):
    assert verify(Verification(folder=folder, decode=decode))["images"] == 12


def test_one_flipped_bit_is_found_and_its_shard_named(folder, capsys):
    shard = sorted(folder.glob("*.tar"))[1]
    data = bytearray(shard.read_bytes())
    data[700] ^= 4
    shard.write_bytes(data)
    with pytest.raises(DataError, match=f"{shard.name} is not what was written"):
        verify(Verification(folder=folder))
    with pytest.raises(SystemExit):
        main([str(folder)])
    assert shard.name in capsys.readouterr().err


def test_images_that_do_not_decode_are_listed(make_coco, tmp_path):
    root, content = make_coco(3, name="damaged")
    file = root / "train" / content["images"][1]["file_name"]
    file.write_bytes(file.read_bytes()[:-300])
    convert(Conversion(coco=root, split="train", out=tmp_path / "damaged", decode=False, processes=1))
    verify(Verification(folder=tmp_path / "damaged"))
    with pytest.raises(DataError, match="sample 000000000011 is no readable jpg"):
        verify(Verification(folder=tmp_path / "damaged", decode=True))
