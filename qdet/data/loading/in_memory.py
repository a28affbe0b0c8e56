"""Samples in memory, parsed from a stream of shards; read like those of a dataset with an index."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from typing import Any

import numpy as np
from jaxtyping import Int64

from qdet.data.image.resize import HW
from qdet.data.shards.annotations import (
    Annotations,
    image_id_of,
    read_image_id,
    read_sample,
    to_columns,
    unknown_kinds,
)
from qdet.data.shards.categories import Categories
from qdet.data.shards.report import Report
from qdet.data.shards.scan_shard import IMAGES
from qdet.errors import DataError


@dataclass(frozen=True)
class InMemorySample:
    """One sample, read and not yet decoded."""

    name: str
    """Shard and key, for messages."""
    key: str
    image_id: int
    hw: HW
    image: bytes
    annotations: Annotations


@dataclass(frozen=True)
class InMemoryIndex:
    """Ids and sizes of the images, in the columns of an `Index`."""

    image_id: Int64[np.ndarray, " n"]
    height: Int64[np.ndarray, " n"]
    width: Int64[np.ndarray, " n"]


@dataclass(frozen=True)
class InMemorySamples:
    """Samples by row, with the reading methods of a `ShardSet`."""

    samples: tuple[InMemorySample, ...]
    categories: Categories
    max_pixels: int

    @property
    def index(self) -> InMemoryIndex:
        """Ids and sizes of their images."""
        return self._index

    @cached_property
    def _index(self) -> InMemoryIndex:
        heights, widths = np.array([sample.hw for sample in self.samples], dtype=np.int64).T
        ids = np.array([sample.image_id for sample in self.samples], dtype=np.int64)
        return InMemoryIndex(ids, heights, widths)

    def name_of(self, row: int) -> str:
        """Shard and key of a sample, for messages."""
        return self.samples[row].name

    def number_of(self, row: int) -> int:
        """A number made of the sample's key, since its row is only a place in memory."""
        key = self.samples[row].key.encode("utf-8", "surrogateescape")
        return int.from_bytes(blake2b(key, digest_size=8).digest(), "big")

    def read_image(self, row: int) -> bytes:
        """The image file of a sample, untouched."""
        return self.samples[row].image

    def read_annotation(self, row: int) -> dict[str, Any]:
        """Its boxes as they were annotated, in columns."""
        sample = self.samples[row]
        ids = dict(zip(self.categories.names, self.categories.ids, strict=True))
        return to_columns(
            sample.annotations,
            image_id=sample.image_id,
            key=sample.key,
            size_hw=sample.hw,
            first_id=1,
            ids=ids,
        )


def parse_sample(
    raw: Mapping[str, Any], categories: Categories, max_pixels: int, report: Report | None = None
) -> InMemorySample:
    """Parse what webdataset calls a sample; `report` counts what is irregular in it.

    Raises:
        DataError: It is not one image with one JSON that fits it.
    """
    key, name = raw["__key__"], f"{raw['__url__']}, sample {raw['__key__']}"
    kinds = [kind for kind in raw if not kind.startswith("__")]
    images = [kind for kind in kinds if kind in IMAGES]
    if len(images) != 1 or "json" not in kinds:
        raise DataError(
            f"{name}: has {len(images)} images and {kinds.count('json')} JSON files ({', '.join(kinds)}) "
            "where one of each makes a sample; pack it again"
        )
    image, mine = raw[images[0]], Report()
    hw, annotations = read_sample(image, raw["json"], name=name, max_pixels=max_pixels, report=mine)
    unknown = unknown_kinds(set(annotations.kinds), categories)
    if unknown:
        some = ", ".join(unknown[:5])
        raise DataError(f"{name}: has boxes of classes that the dataset does not list: {some}")
    if report is not None:
        report.merge(mine)
    return InMemorySample(name, key, image_id_of(key, annotations.image_id), hw, image, annotations)


def id_of_unreadable(raw: Mapping[str, Any]) -> int:
    """Image id of a sample that `parse_sample` refused, from its JSON where that can be read."""
    key = raw["__key__"]
    try:
        return image_id_of(key, read_image_id(raw["json"], name=key))
    except (KeyError, DataError):
        return image_id_of(key, None)
