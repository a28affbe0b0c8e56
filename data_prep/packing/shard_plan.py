"""Plan which image goes into which shard: shuffled once, cut by size, the same wherever it is computed.

Shuffling gives mixed samples even to readers that take one shard after the other.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from data_prep.annotations.coco import Annotations, Image
from data_prep.annotations.image_checks import Checks
from data_prep.packing.pack import ShardTask
from qdet.errors import DataError
from qdet.storage import Folder


def plan_shards(
    content: Annotations,
    folder: Path,
    store: Folder,
    *,
    split: str,
    seed: int,
    shard_bytes: float,
    checks: Checks,
    max_bad: int,
) -> list[ShardTask]:
    """Shuffle the images of a split by `seed` and cut them into shards of up to `shard_bytes` of images.

    Raises:
        DataError: Listed images are missing from `folder`; the message names them.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} does not exist; name the folder of the images with --images")
    order = np.random.Generator(np.random.Philox(key=seed)).permutation(len(content.images))
    images = [content.images[i] for i in order]
    lengths = _read_lengths(images, folder, content.file)
    return [
        ShardTask(
            store=store,
            name=f"{split}-{number:06d}.tar",
            images_folder=folder.absolute(),
            images=tuple(images[begin:end]),
            lengths=tuple(lengths[begin:end]),
            checks=checks,
            max_bad=max_bad,
        )
        for number, (begin, end) in enumerate(_cut(lengths, shard_bytes))
    ]


def hash_plan(split: str, content: Annotations, tasks: Sequence[ShardTask]) -> str:
    """Return the SHA-256 that identifies a conversion: equal hashes mean equal shards."""
    plan = {
        "split": split,
        "categories": content.categories.to_coco(),
        "shards": [task.plan for task in tasks],
        "report": content.report,
    }
    return hashlib.sha256(json.dumps(plan, sort_keys=True).encode()).hexdigest()


def drop_empty_images(content: Annotations) -> Annotations:
    """Return the annotations without images that have no box; the report counts those.

    Raises:
        DataError: No image has a box.
    """
    kept = tuple(image for image in content.images if image.boxes)
    if not kept:
        raise DataError(f"{content.file}: no image has a box, so --drop-empty leaves nothing")
    dropped = len(content.images) - len(kept)
    return replace(content, images=kept, report=content.report | {"dropped_images_without_boxes": dropped})


def _cut(lengths: Sequence[int], limit: float) -> list[tuple[int, int]]:
    """Cut into consecutive ranges [begin, end) whose lengths sum to at most `limit`, of one item at least."""
    begins, size = [0], 0
    for i, length in enumerate(lengths):
        if i > begins[-1] and size + length > limit:
            begins.append(i)
            size = 0
        size += length
    return list(zip(begins, [*begins[1:], len(lengths)], strict=True))


def _read_lengths(images: Sequence[Image], folder: Path, file: Path) -> list[int]:
    lengths, missing = [], []
    for image in images:
        try:
            lengths.append((folder / image.file_name).stat().st_size)
        except OSError:
            missing.append(f"{image.file_name} (image {image.id})")
    if missing:
        first = ", ".join(sorted(missing)[:5])
        raise DataError(
            f"{file} lists {len(missing)} images that are not in {folder}: {first}"
            f"{', ...' if len(missing) > 5 else ''}; complete the download or name their folder with --images"
        )
    return lengths
