"""A folder of WebDataset shards with its manifest and index: the dataset as training and evaluation see it.

DIR/manifest.json          written last: which shards belong to it, categories, counts, checksums
DIR/index.npz              where every sample lies (see `qdet.data.index`)
DIR/{split}-000000.tar     KEY.jpg and KEY.json per sample, plain ustar that webdataset also reads
DIR/{split}-000000.idx     the same offsets for NVIDIA DALI
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from qdet.data.categories import Categories
from qdet.data.index import Index, index_from_bytes
from qdet.data.read import ShardFiles, check_crc32
from qdet.errors import DataError

SCHEMA = 1
"""Version of the layout; a reader refuses another."""


@dataclass(frozen=True)
class ShardSet:
    """One split of a dataset. Open it with `ShardSet.open`."""

    path: Path
    categories: Categories
    index: Index
    digest: str
    """sha256 of everything in the set: the dataset's identity in MLflow and in checkpoints."""
    manifest: dict[str, Any]

    @classmethod
    def open(cls, path: str | Path) -> "ShardSet":
        """Read manifest and index, and check that every shard is there in its full size."""
        folder = _local(path)
        manifest = read_manifest(folder)
        file = folder / "index.npz"
        data = _bytes_of(file)
        if hashlib.sha256(data).hexdigest() != manifest["index_sha256"]:
            raise DataError(
                f"{file} does not belong to {folder / 'manifest.json'}; convert the dataset again"
            )
        for shard in manifest["shardlist"]:
            _check_size(folder / shard["url"], shard["filesize"])
        where = str(folder / "manifest.json")
        return cls(
            path=folder,
            categories=Categories.from_coco(manifest["categories"], where=where),
            index=index_from_bytes(data, where=str(file)),
            digest=manifest["digest"],
            manifest=manifest,
        )

    def __len__(self) -> int:
        return len(self.index)

    @cached_property
    def files(self) -> ShardFiles:
        """The shards themselves."""
        return ShardFiles([self.path / shard["url"] for shard in self.manifest["shardlist"]])

    def name_of(self, row: int) -> str:
        """Shard and key of a sample, for messages."""
        shard = self.files.paths[self.index.shard[row]]
        return f"{shard}, sample {key_of(int(self.index.image_id[row]))}"

    def read_image(self, row: int) -> bytes:
        """The image file of a sample, untouched."""
        i = self.index
        data = self.files.read(int(i.shard[row]), int(i.image_offset[row]), int(i.image_length[row]))
        check_crc32(data, int(i.image_crc32[row]), name=f"{self.name_of(row)}: the image")
        return data

    def read_annotation(self, row: int) -> dict[str, Any]:
        """What `data_prep` wrote about a sample: boxes as they were annotated, in columns."""
        i = self.index
        data = self.files.read(
            int(i.shard[row]), int(i.annotation_offset[row]), int(i.annotation_length[row])
        )
        check_crc32(data, int(i.annotation_crc32[row]), name=f"{self.name_of(row)}: the annotation")
        return json.loads(data)

    def will_read(self, rows: Iterable[int]) -> None:
        """Say which samples are read next, in about this order: nothing to prepare where files are local."""

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


def key_of(image_id: int) -> str:
    """Key of a sample in its shard: no dots, ASCII, sorted as the ids are."""
    return f"{image_id:012d}"


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read manifest.json of a finished conversion."""
    file = folder / "manifest.json"
    if not file.is_file():
        raise DataError(
            f"{folder} holds no shards (no manifest.json). Make them with: "
            f"python -m data_prep.coco_to_shards --coco DIR --split SPLIT --out {folder}"
        )
    try:
        manifest = json.loads(_bytes_of(file))
        schema = manifest["schema"]
        complete = {"shardlist", "categories", "digest", "index_sha256"} <= manifest.keys()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{file} was not written by data_prep.coco_to_shards; convert the dataset again"
        ) from error
    if schema != SCHEMA or not complete:
        raise DataError(
            f"{file} has layout {schema}, this qdet reads layout {SCHEMA}; convert the dataset again"
        )
    return manifest


def _local(path: str | Path) -> Path:
    if "://" in str(path):
        raise DataError(
            f"{path}: shards are read from a folder; copy or mount them where every worker sees them"
        )
    return Path(path)


def _bytes_of(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror or error}") from error


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
