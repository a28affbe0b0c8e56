"""Random damage to shards, indexes and manifests: every sample is read right, or missed by its name."""

import json
import random
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from data_prep.coco_to_shards import Conversion, convert
from data_prep.verify import Verification, verify
from qdet.data.shards.index import COLUMNS, Index, index_from_file
from qdet.data.shards.locate import Access
from qdet.data.shards.shard_set import ShardSet
from qdet.errors import DataError

TIMES = 300
"""Flips and cuts of shards; with those of indexes, manifests and third-party shards they are a thousand."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the shards of 12 images."""
    from data_prep.synthetic import SyntheticConfig, prepare

    root = tmp_path_factory.mktemp("damage")
    prepare(SyntheticConfig(out=root / "coco", train=12, val=1, size=64, workers=1))
    out = root / "shards"
    convert(Conversion(coco=root / "coco", split="train", out=out, shard_megabytes=0.012, processes=1))
    assert len(list(out.glob("*.tar"))) > 1
    return out


def _samples(shards: ShardSet) -> list[tuple[bytes, dict]]:
    return [_sample(shards, row) for row in range(len(shards))]


def _sample(shards: ShardSet, row: int) -> tuple[bytes, dict]:
    return shards.read_image(row), shards.read_annotation(row)


@contextmanager
def _restored(file: Path) -> Iterator[None]:
    before = file.read_bytes()
    yield
    file.write_bytes(before)


def _flip(file: Path, chance: random.Random) -> int:
    data = bytearray(file.read_bytes())
    place = chance.randrange(len(data))
    data[place] ^= 1 << chance.randrange(8)
    file.write_bytes(data)
    return place


def _cut(file: Path, chance: random.Random, places: list[int]) -> None:
    """Truncate anywhere, or exactly between two members, where a tar looks whole to many readers."""
    size = file.stat().st_size
    with file.open("r+b") as opened:
        opened.truncate(chance.choice([chance.randrange(size), chance.choice(places)]))


def _boundaries(shards: ShardSet, number: int) -> list[int]:
    of = shards.index.shard == number
    return sorted(
        {int(at) - 512 for at in (*shards.index.image_offset[of], *shards.index.annotation_offset[of])}
    )


def test_every_flipped_byte_of_a_shard_is_found_by_reading_or_by_verifying(whole, tmp_path):
    folder = shutil.copytree(whole, tmp_path / "copy")
    chance, good = random.Random(0), _samples(ShardSet.open(whole))
    for _ in range(TIMES):
        tar = chance.choice(sorted(folder.glob("*.tar")))
        with _restored(tar):
            place = _flip(tar, chance)
            shards = ShardSet.open(folder)
            wrong = [row for row, expected in enumerate(good) if not _reads(shards, row, expected)]
            hit = _sample_at(shards, folder, tar, place)
            assert wrong == ([hit] if hit is not None else [])  # between samples nothing is read
            with pytest.raises(DataError, match=re.escape(str(tar))):
                verify(Verification(folder=folder))


def _sample_at(shards: ShardSet, folder: Path, tar: Path, place: int) -> int | None:
    """Row of the sample whose image or JSON has this byte; None in headers and padding."""
    i = shards.index
    for row in range(len(shards)):
        if folder / shards.manifest["shardlist"][i.shard[row]]["url"] != tar:
            continue
        for begin, length in (
            (i.image_offset[row], i.image_length[row]),
            (i.annotation_offset[row], i.annotation_length[row]),
        ):
            if begin <= place < int(begin) + int(length):
                return row
    return None


def _reads(shards: ShardSet, row: int, expected: tuple[bytes, dict]) -> bool:
    """Whether a sample is read; it is never read wrong, nor missed without its name."""
    try:
        found = _sample(shards, row)
    except DataError as error:
        if not str(error).startswith(f"{shards.name_of(row)}: the "):
            raise
        return False
    if found != expected:
        pytest.fail(f"{shards.name_of(row)} was read wrong")
    return True


def _error_of(folder: Path) -> str | None:
    try:
        ShardSet.open(folder)
    except DataError as error:
        return str(error)
    return None


def test_every_cut_of_a_shard_is_found_when_the_set_is_opened(whole, tmp_path):
    chance, shards = random.Random(1), ShardSet.open(whole)
    folder = shutil.copytree(whole, tmp_path / "copy")
    for _ in range(TIMES):
        number = chance.randrange(len(shards.manifest["shardlist"]))
        tar = folder / shards.manifest["shardlist"][number]["url"]
        with _restored(tar):
            _cut(tar, chance, _boundaries(shards, number))
            with pytest.raises(DataError, match=f"{tar} has .* it is truncated"):
                ShardSet.open(folder)


def test_every_cut_of_a_shard_in_use_is_found_by_the_reads_that_it_concerns(whole, tmp_path):
    chance, good = random.Random(2), _samples(ShardSet.open(whole))
    for _ in range(30):
        folder = shutil.copytree(whole, tmp_path / "copy", dirs_exist_ok=True)
        shards = ShardSet.open(folder)
        number = chance.randrange(len(shards.manifest["shardlist"]))
        tar = folder / shards.manifest["shardlist"][number]["url"]
        _cut(tar, chance, _boundaries(shards, number))
        size = tar.stat().st_size
        for row, expected in enumerate(good):
            i = shards.index
            ends = int(i.annotation_offset[row]) + int(i.annotation_length[row])
            if i.shard[row] == number and ends > size:
                with pytest.raises(DataError, match=f"{tar} ends at byte .* truncated"):
                    _sample(shards, row)
            else:
                assert _sample(shards, row) == expected


@pytest.mark.parametrize("name", ["index.npz", "manifest.json"])
def test_damage_of_index_and_manifest_is_found_or_changes_nothing(whole, tmp_path, name):
    chance, before = random.Random(3), ShardSet.open(whole)
    good = _samples(before)
    folder = shutil.copytree(whole, tmp_path / "copy")
    for turn in range(TIMES // 2):
        with _restored(folder / name):
            if turn % 2:
                _flip(folder / name, chance)
            else:
                _cut(folder / name, chance, [0])
            said = _error_of(folder)
            if said is None:  # of a manifest not every byte decides what is read
                assert name == "manifest.json"
                assert _samples(ShardSet.open(folder)) == good
            else:
                assert name in said


def test_third_party_shards_are_refused_when_a_cut_or_damaged_header_loses_samples(whole, tmp_path):
    """No checksum of third-party bytes was recorded; a tar shows both, though many readers do not check."""
    chance = random.Random(4)
    shards = ShardSet.open(whole)
    names = tmp_path / "categories.json"
    names.write_text(json.dumps(shards.manifest["categories"]))
    access = Access(cache=str(tmp_path / "cache"), categories=str(names))
    number = int(shards.index.shard[0])
    tar, copy = whole / shards.manifest["shardlist"][number]["url"], tmp_path / "third_party.tar"
    images = [shards.read_image(int(row)) for row in (shards.index.shard == number).nonzero()[0]]
    last = _boundaries(shards, number)[-1]
    for _ in range(TIMES // 4):
        shutil.copy(tar, copy)
        _cut(copy, chance, _boundaries(shards, number))
        try:
            left = ShardSet.open(copy, access)
        except DataError as error:
            if "third_party.tar" not in str(error):
                raise
        else:  # only zeros at the end are gone
            assert copy.stat().st_size > last
            assert [left.read_image(row) for row in range(len(left))] == images
    headers = _boundaries(shards, number)
    for _ in range(TIMES // 4):  # a damaged header, after which tar readers see an archive that ends
        shutil.copy(tar, copy)
        data = bytearray(copy.read_bytes())
        data[chance.choice(headers) + chance.randrange(100)] ^= 1 << chance.randrange(8)
        copy.write_bytes(data)
        with pytest.raises(DataError, match=r"third_party\.tar"):
            ShardSet.open(copy, access)


def test_shards_that_were_swapped_are_found(whole, tmp_path):
    folder = shutil.copytree(whole, tmp_path / "copy")
    first, second = sorted(folder.glob("*.tar"))[:2]
    first.rename(folder / "x")
    second.rename(first)
    (folder / "x").rename(second)
    with pytest.raises(DataError):
        _samples(ShardSet.open(folder))


def test_a_json_of_another_image_is_found(whole, tmp_path):
    """An index whose rows were mixed up, checksums and all: only the JSON itself tells."""
    folder = shutil.copytree(whole, tmp_path / "copy")
    index = index_from_file(folder / "index.npz")
    columns = {name: getattr(index, name).copy() for name in COLUMNS}
    for name in ("annotation_offset", "annotation_length", "annotation_crc32"):
        columns[name][[0, 1]] = columns[name][[1, 0]]
    _replace_index(folder, Index(**columns))
    shards = ShardSet.open(folder)
    with pytest.raises(DataError, match=r"sample \d+: its JSON is of image"):
        shards.read_annotation(0)


def test_an_index_with_samples_missing_is_found(whole, tmp_path):
    folder = shutil.copytree(whole, tmp_path / "copy")
    index = index_from_file(folder / "index.npz")
    _replace_index(folder, Index(**{name: getattr(index, name)[1:] for name in COLUMNS}))
    with pytest.raises(DataError, match=r"index\.npz and .*manifest\.json do not count the same samples"):
        ShardSet.open(folder)


def _replace_index(folder: Path, index: Index) -> None:
    import hashlib

    data = index.to_bytes()
    (folder / "index.npz").write_bytes(data)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["index_sha256"] = hashlib.sha256(data).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_indexes_of_any_size_are_mapped_as_they_were_written(tmp_path):
    chance = np.random.default_rng(0)
    for rows, keys in ((0, False), (1, True), (1000, False), (7, True)):
        columns = {
            name: chance.integers(0, np.iinfo(kind).max, rows, dtype=kind) for name, kind in COLUMNS.items()
        }
        if keys:
            columns["key"] = np.array([b"k" * k for k in range(rows)], dtype="S9")
        (tmp_path / "index.npz").write_bytes(Index(**columns).to_bytes())
        read = index_from_file(tmp_path / "index.npz")
        assert all(np.array_equal(getattr(read, name), column) for name, column in columns.items())
        assert (read.key is None) == (not keys)
        assert not read.shard.flags.writeable or not rows
