"""Images of a dataset, small enough to be part of a page."""

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from qdet.data.loading.sample import load_image
from qdet.data.shards.shard_set import ShardSet
from qdet.evaluation.html.photos import Photo

LONGEST = 420
"""Pixels of the longer side."""


def read_photos(shards: ShardSet, image_ids: Sequence[int]) -> dict[int, Photo]:
    """Read some images by id, scaled down.

    Raises:
        DataError: One cannot be decoded.
    """
    rows = {int(shards.index.image_id[row]): row for row in _rows_of(shards, image_ids)}
    shards.will_read(rows.values())
    return {image_id: _read(shards, rows[image_id]) for image_id in image_ids}


def _rows_of(shards: ShardSet, image_ids: Sequence[int]) -> list[int]:
    return np.flatnonzero(np.isin(shards.index.image_id, np.array(image_ids, np.int64))).tolist()


def _read(shards: ShardSet, row: int) -> Photo:
    image = Image.fromarray(load_image(shards, row))
    width, height = image.size
    image.thumbnail((LONGEST, LONGEST), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    image.save(out, format="JPEG", quality=85)
    return Photo(out.getvalue(), width, height)
