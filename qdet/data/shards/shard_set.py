"""A folder of WebDataset shards with its manifest and index: the dataset as training and evaluation see it.

DIR/manifest.json          written last: which shards belong to it, categories, counts, checksums
DIR/index.npz              where every sample lies (see `qdet.data.shards.index`)
DIR/{split}-000000.tar     KEY.jpg and KEY.json per sample, plain ustar that webdataset also reads
DIR/{split}-000000.idx     the same offsets for NVIDIA DALI

DIR may be a URL, and shards may come without manifest and index (see `qdet.data.shards.locate`).
"""

import hashlib
import socket
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from qdet.data.files.cached_files import CachedShards
from qdet.data.files.local_files import ShardFiles
from qdet.data.shards.annotations import read_annotations, to_columns
from qdet.data.shards.categories import Categories
from qdet.data.shards.forms import read_columns
from qdet.data.shards.index import Index, index_from_file
from qdet.data.shards.index_location import IndexLocation, locate_index
from qdet.data.shards.locate import Access, DatasetInfo, locate
from qdet.data.shards.manifest import INDEX, NAME, objects_in
from qdet.errors import DataError

_TOGETHER = 4096
"""Samples whose boxes are counted together."""
_PIECE = 2**22
"""Samples of an index that are looked through at once."""


@dataclass(frozen=True)
class ShardSet:
    """One split of a dataset. Open it with `ShardSet.open`; pickled, it is opened again where it arrives."""

    source: str
    """The address it was opened by."""
    access: Access
    path: Path
    """Folder on this machine with manifest and index."""
    categories: Categories
    index: Index
    digest: str
    """sha256 of everything in the set: the dataset's identity in MLflow and in checkpoints."""
    manifest: Mapping[str, Any]
    files: ShardFiles | CachedShards
    """The shards themselves."""

    @classmethod
    def open(cls, source: str | Path, access: Access | None = None) -> "ShardSet":
        """Read manifest and index, and check that every shard of this machine is there in its full size."""
        access = access or Access()
        return cls.from_info(locate(str(source), access), access, source=str(source))

    @classmethod
    def from_info(cls, info: DatasetInfo, access: Access, *, source: str) -> "ShardSet":
        """Open what `locate` found at the address `source`."""
        located = locate_index(info, access)
        manifest = located.manifest
        index = _read_index(located)
        files = access.files(manifest["shardlist"], located.base)
        if isinstance(files, ShardFiles):
            for path, shard in zip(files.paths, manifest["shardlist"], strict=True):
                _check_size(path, shard["filesize"])
        return cls(
            source=source,
            access=access,
            path=located.folder,
            categories=Categories.from_coco(manifest["categories"], where=str(located.folder / NAME)),
            index=index,
            digest=manifest["digest"],
            manifest=manifest,
            files=files,
        )

    def __len__(self) -> int:
        return len(self.index)

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self.source, self.access, self.digest)

    @property
    def max_pixels(self) -> int:
        """Largest image that is decoded."""
        return self.access.max_pixels

    @property
    def objects(self) -> int | None:
        """Objects that are no crowds; None where the manifest does not count them."""
        return objects_in(self.manifest)

    def name_of(self, row: int) -> str:
        """Shard and key of a sample, for messages."""
        return f"{self.files.names[self.index.shard[row]]}, sample {self.key_of(row)}"

    def key_of(self, row: int) -> str:
        """Name of a sample in its shard."""
        if self.index.key is not None:
            return self.index.key[row].decode("utf-8", "replace")
        return key_of(int(self.index.image_id[row]))

    def will_read(self, rows: Iterable[int]) -> None:
        """Say which samples are read next, in about this order.

        Shards behind URLs are fetched into the cache in the background, and those that only an earlier call
        named are released. Local files need no preparation.
        """
        self.files.will_read(self.index.shard[np.fromiter(rows, dtype=np.int64)].tolist())

    def number_of(self, row: int) -> int:
        """The row itself: a sample has the same one in every batch."""
        return row

    def read_image(self, row: int) -> bytes:
        """The image file of a sample, untouched."""
        i = self.index
        return self._read(row, "image", (i.image_offset, i.image_length, i.image_crc32))

    def read_annotation(self, row: int) -> dict[str, Any]:
        """What `data_prep` wrote about a sample, or would have: boxes as they were annotated, in columns."""
        i = self.index
        data = self._read(row, "annotation", (i.annotation_offset, i.annotation_length, i.annotation_crc32))
        image_id, ids = int(i.image_id[row]), self.manifest.get("image_ids")
        size_hw = int(i.height[row]), int(i.width[row])
        if ids is not None:
            return to_columns(
                read_annotations(data, name=self.name_of(row), size_hw=size_hw),
                image_id=image_id,
                key=self.key_of(row),
                size_hw=size_hw,
                first_id=self._boxes_before(row) + 1,
                ids=self._category_ids,
            )
        sample = read_columns(data, name=self.name_of(row))
        if sample["image_id"] != image_id:
            raise DataError(
                f"{self.name_of(row)}: its JSON is of image {sample['image_id']}; convert the dataset again"
            )
        if len(sample["boxes_xywh"]) != i.boxes[row]:
            raise DataError(
                f"{self.name_of(row)}: its JSON has {len(sample['boxes_xywh'])} boxes where the index says "
                f"{i.boxes[row]}; convert the dataset again"
            )
        return sample

    def ground_truth(self, rows: Sequence[int] | None = None) -> dict[str, Any]:
        """The split, or some rows of it, as a COCO annotation dictionary with its original ids and boxes."""
        images, annotations = [], []
        for row in range(len(self)) if rows is None else rows:
            sample = self.read_annotation(row)
            image = {name: sample[name] for name in ("file_name", "width", "height")}
            images.append({"id": sample["image_id"], **image})
            columns = ("annotation_ids", "category_ids", "boxes_xywh", "areas", "iscrowd")
            for i, category, box, area, crowd in zip(*(sample[c] for c in columns), strict=True):
                annotations.append(
                    {
                        "id": i,
                        "image_id": sample["image_id"],
                        "category_id": category,
                        "bbox": box,
                        "area": area,
                        "iscrowd": crowd,
                    }
                )
        return {"images": images, "annotations": annotations, "categories": self.categories.to_coco()}

    def _read(self, row: int, what: str, where: tuple[np.ndarray, ...]) -> bytes:
        """Read bytes with the checksum that the index recorded; a differing copy is fetched again, once."""
        shard = int(self.index.shard[row])
        offset, length, crc32 = (int(column[row]) for column in where)
        data = self.files.read(shard, offset, length)
        if zlib.crc32(data) != crc32 and self.files.forget(shard):
            data = self.files.read(shard, offset, length)
        if zlib.crc32(data) != crc32:
            raise DataError(
                f"{self.name_of(row)}: the {what} is not what was written: its checksum differs on host "
                f"{socket.gethostname()}; copy the shard again or convert the dataset again"
            )
        return data

    def _boxes_before(self, row: int) -> int:
        """Annotated boxes of all samples before `row`."""
        part, boxes = row // _TOGETHER, self.index.boxes
        return int(self._boxes_before_parts[part]) + int(boxes[part * _TOGETHER : row].sum(dtype=np.int64))

    @cached_property
    def _boxes_before_parts(self) -> np.ndarray:
        starts = np.arange(0, len(self), _TOGETHER)
        sums = np.add.reduceat(self.index.boxes, starts, dtype=np.int64)
        return np.cumsum(sums) - sums

    @cached_property
    def _category_ids(self) -> dict[str, int]:
        return dict(zip(self.categories.names, self.categories.ids, strict=True))


def key_of(image_id: int) -> str:
    """Key of a sample in its shard: no dots, ASCII, sorted as the ids are."""
    return f"{image_id:012d}"


@lru_cache(maxsize=8)
def _reopen(source: str, access: Access, digest: str) -> ShardSet:
    """Open a set that was pickled, once per process."""
    shards = ShardSet.open(source, access)
    if shards.digest != digest:
        raise DataError(f"{source} changed while it was in use; start again")
    return shards


def _read_index(located: IndexLocation) -> Index:
    """Read the index; DataError where it is damaged or not the manifest's."""
    file, manifest = located.folder / INDEX, located.folder / NAME
    try:
        with file.open("rb") as content:  # by pieces: an index can be larger than memory
            found = hashlib.file_digest(content, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror or error}; {located.remedy}") from error
    if found != located.manifest["index_sha256"]:
        raise DataError(f"{file} does not belong to {manifest}; {located.remedy}")
    index = index_from_file(file)
    listed = [shard["nsamples"] for shard in located.manifest["shardlist"]]
    if samples_by_shard(index, len(listed)) != listed:
        raise DataError(f"{file} and {manifest} do not count the same samples; {located.remedy}")
    return index


def samples_by_shard(index: Index, shards: int) -> list[int]:
    """Count the samples of every shard; more numbers than `shards` where the index names others."""
    counts = np.zeros(shards, dtype=np.int64)
    for start in range(0, len(index), _PIECE):
        piece = np.bincount(index.shard[start : start + _PIECE], minlength=len(counts))
        counts = np.pad(counts, (0, len(piece) - len(counts))) + piece
    return counts.tolist()


def _check_size(shard: Path, size: int) -> None:
    try:
        found = shard.stat().st_size
    except OSError as error:
        raise DataError(f"{shard} is listed in manifest.json but cannot be read: {error.strerror}") from error
    if found != size:
        state = "truncated" if found < size else "changed"
        raise DataError(
            f"{shard} has {found} bytes where manifest.json says {size}: it is {state}; "
            "copy it again or convert the dataset again"
        )
