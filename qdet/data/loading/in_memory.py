"""Samples in memory, as a stream of shards yields them, in the place of a dataset that is read by offset."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Int64

from qdet.data.image.decode import check_pixels, size_hw
from qdet.data.image.resize import HW
from qdet.data.shards.annotations import Note, image_id_of, read_note, to_columns
from qdet.data.shards.categories import Categories
from qdet.data.shards.scan_shard import IMAGES
from qdet.errors import DataError


@dataclass(frozen=True)
class HeldSample:
    """One sample, read and not yet decoded."""

    name: str
    """Shard and key, for messages."""
    key: str
    image_id: int
    hw: HW
    image: bytes
    note: Note


@dataclass(frozen=True)
class HeldIndex:
    """Ids and sizes of held images."""

    image_id: Int64[np.ndarray, " n"]
    height: Int64[np.ndarray, " n"]
    width: Int64[np.ndarray, " n"]


@dataclass(frozen=True)
class Held:
    """Some samples by their number, read as those of a `ShardSet` are."""

    samples: tuple[HeldSample, ...]
    categories: Categories
    max_pixels: int

    @property
    def index(self) -> HeldIndex:
        """Ids and sizes of their images."""
        return self._index

    @cached_property
    def _index(self) -> HeldIndex:
        heights, widths = np.array([sample.hw for sample in self.samples], dtype=np.int64).T
        ids = np.array([sample.image_id for sample in self.samples], dtype=np.int64)
        return HeldIndex(ids, heights, widths)

    def name_of(self, row: int) -> str:
        """Shard and key of a sample, for messages."""
        return self.samples[row].name

    def read_image(self, row: int) -> bytes:
        """The image file of a sample, untouched."""
        return self.samples[row].image

    def read_annotation(self, row: int) -> dict[str, Any]:
        """Its boxes as they were annotated, in columns."""
        sample = self.samples[row]
        ids = dict(zip(self.categories.names, self.categories.ids, strict=True))
        return to_columns(
            sample.note, image_id=sample.image_id, key=sample.key, size_hw=sample.hw, first_id=1, ids=ids
        )


def hold(raw: Mapping[str, Any], categories: Categories, max_pixels: int) -> HeldSample:
    """Take in what webdataset calls a sample; DataError where it is not an image with a JSON that fits it."""
    key, name = raw["__key__"], f"{raw['__url__']}, sample {raw['__key__']}"
    kinds = [kind for kind in raw if not kind.startswith("__")]
    images = [kind for kind in kinds if kind in IMAGES]
    if len(images) != 1 or "json" not in kinds:
        raise DataError(
            f"{name}: has {len(images)} images and {kinds.count('json')} JSON files ({', '.join(kinds)}) "
            "where one of each belongs together; pack it again"
        )
    image, note = raw[images[0]], read_note(raw["json"], name=name)
    hw = size_hw(image, name=f"{name}: the image")
    check_pixels(*hw, max_pixels, name=f"{name}: the image")
    if note.size_hw not in (None, hw):
        raise DataError(
            f"{name}: the image is {hw[1]}x{hw[0]} pixels, its JSON says {note.size_hw[1]}x{note.size_hw[0]}"
        )
    unknown = set(note.kinds) - set(categories.ids) - set(categories.names)
    if unknown:
        some = ", ".join(sorted(map(repr, unknown))[:5])
        raise DataError(f"{name}: has boxes of classes that the dataset does not list: {some}")
    return HeldSample(name, key, image_id_of(key, note.image_id), hw, image, note)


def id_of_unreadable(raw: Mapping[str, Any]) -> int:
    """Image id of a sample that `hold` refused, from its JSON where that can be read."""
    key = raw["__key__"]
    try:
        return image_id_of(key, read_note(raw["json"], name=key).image_id)
    except (KeyError, DataError):
        return image_id_of(key, None)
