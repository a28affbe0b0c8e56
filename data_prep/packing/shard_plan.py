"""Which image goes into which shard: shuffled once, cut by size, the same wherever it is computed.

Shuffled, so that readers which take one shard after the other get mixed samples too.
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
    """Cut the images of a split, in the order that `seed` gives, into shards of up to `shard_bytes`.

    Raises:
        DataError: Images that the annotation file lists are not in `folder`; the message says which.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is not there; name the folder of the images with --images")
    order = np.random.Generator(np.random.Philox(key=seed)).permutation(len(content.images))
    images = [content.images[i] for i in order]
    lengths = _lengths(images, folder, content.file)
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
        for number, (begin, end) in enumerate(_cuts(lengths, shard_bytes))
    ]


def plan_hash(split: str, content: Annotations, tasks: Sequence[ShardTask]) -> str:
    """Identity of a conversion: folders with the same one hold, or will hold, the same shards."""
    plan = {
        "split": split,
        "categories": content.categories.to_coco(),
        "shards": [task.plan for task in tasks],
        "report": content.report,
    }
    return hashlib.sha256(json.dumps(plan, sort_keys=True).encode()).hexdigest()


def without_empty(content: Annotations) -> Annotations:
    """The same annotations without images that have no box; how many they were goes into the report."""
    kept = tuple(image for image in content.images if image.boxes)
    if not kept:
        raise DataError(f"{content.file}: no image has a box, so --drop-empty leaves nothing")
    dropped = len(content.images) - len(kept)
    return replace(content, images=kept, report=content.report | {"dropped_images_without_boxes": dropped})


def _cuts(lengths: Sequence[int], limit: float) -> list[tuple[int, int]]:
    """Consecutive ranges whose lengths add up to at most `limit`, but hold one each at least."""
    begins, size = [0], 0
    for i, length in enumerate(lengths):
        if i > begins[-1] and size + length > limit:
            begins.append(i)
            size = 0
        size += length
    return list(zip(begins, [*begins[1:], len(lengths)], strict=True))


def _lengths(images: Sequence[Image], folder: Path, file: Path) -> list[int]:
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
