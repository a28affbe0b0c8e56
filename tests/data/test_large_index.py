"""Indexes of many shards and many samples: columns wide enough, nothing read or counted whole."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from data_prep.coco_to_shards import Conversion, convert
from qdet.data.shards import shard_set
from qdet.data.shards.index import COLUMNS, Index, index_from_file, index_from_rows
from qdet.data.shards.shard_set import ShardSet, samples_by_shard
from qdet.errors import DataError


def row(shard):
    return dict.fromkeys(COLUMNS, 1) | {"shard": shard}


@pytest.mark.parametrize(("last", "kind"), [(65_535, np.uint16), (65_536, np.uint32), (2**31, np.uint32)])
def test_more_shards_than_16_bits_count_are_indexed(tmp_path, last, kind):
    index = index_from_rows([row(0), row(last)])
    (tmp_path / "index.npz").write_bytes(index.to_bytes())
    read = index_from_file(tmp_path / "index.npz")
    assert read.shard.dtype == kind
    assert read.shard.tolist() == [0, last]


def test_other_columns_stay_as_narrow_as_they_are(tmp_path):
    with pytest.raises(DataError, match="width 65536, an index holds up to 65535"):
        index_from_rows([row(0) | {"width": 65_536}])
    columns = {name: np.ones(3, kind) for name, kind in COLUMNS.items()}
    (tmp_path / "index.npz").write_bytes(Index(**columns | {"height": np.ones(3, np.uint16)}).to_bytes())
    assert len(index_from_file(tmp_path / "index.npz")) == 3
    columns["shard"] = np.ones(3, np.uint64)
    (tmp_path / "index.npz").write_bytes(Index(**columns).to_bytes())
    with pytest.raises(DataError, match=r"wrong kinds \(shard\)"):
        index_from_file(tmp_path / "index.npz")


def test_samples_of_a_shard_are_counted_piece_by_piece(monkeypatch):
    monkeypatch.setattr(shard_set, "_PIECE", 7)
    shards = np.sort(np.random.default_rng(0).integers(0, 9, 100)).astype(np.uint16)
    index = Index(**{name: np.ones(100, kind) for name, kind in COLUMNS.items()} | {"shard": shards})
    assert samples_by_shard(index, 9) == np.bincount(shards, minlength=9).tolist()
    assert samples_by_shard(index, 12) == [*np.bincount(shards, minlength=9).tolist(), 0, 0, 0]
    assert len(samples_by_shard(index, 3)) > 3  # which is no manifest's list


def test_an_index_is_hashed_by_pieces_and_boxes_are_counted_as_a_sum(make_coco, tmp_path, monkeypatch):
    root, _ = make_coco(20)
    folder = tmp_path / "shards"
    convert(Conversion(coco=root, split="train", out=folder, shard_megabytes=0.01, processes=1))
    whole = Path.read_bytes

    def read_bytes(file):
        assert file.name != "index.npz"
        return whole(file)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    shards = ShardSet.open(folder)
    monkeypatch.setattr(shard_set, "_TOGETHER", 3)
    before = np.cumsum(shards.index.boxes) - shards.index.boxes
    assert [shards._boxes_before(row) for row in range(20)] == before.tolist()
    data = bytearray(whole(folder / "index.npz"))
    data[len(data) // 2] ^= 1
    (folder / "index.npz").write_bytes(data)
    assert hashlib.sha256(data).hexdigest() != shards.manifest["index_sha256"]
    with pytest.raises(DataError, match="does not belong to"):
        ShardSet.open(folder)
