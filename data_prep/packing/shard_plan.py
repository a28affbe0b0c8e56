"""Plan which image goes into which shard: shuffled once, cut by size, the same wherever it is computed.

Shuffling gives mixed samples even to readers that take one shard after the other.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from data_prep.annotations.coco import Annotations, Image
from data_prep.annotations.image_checks import Checks
from data_prep.annotations.spellings import Spellings
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
    images, lengths = _read_lengths(images, folder, content.file)
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


def count_respelled(content: Annotations, tasks: Sequence[ShardTask]) -> int:
    """Return how many images were found under another spelling of their name."""
    found = {image.file_name for task in tasks for image in task.images}
    return sum(image.file_name not in found for image in content.images)


def _read_lengths(images: Sequence[Image], folder: Path, file: Path) -> tuple[list[Image], list[int]]:
    """Return the images under the names that their files have, and the sizes of these in bytes."""
    sizes = [_size_of(folder / image.file_name) for image in images]
    if None in sizes:
        missing = [image for image, size in zip(images, sizes, strict=True) if size is None]
        taken = {image.file_name for image, size in zip(images, sizes, strict=True) if size is not None}
        found = _find_respelled(missing, taken, folder, file)
        images = [replace(image, file_name=found.get(image.id, image.file_name)) for image in images]
        sizes = [
            _size_of(folder / image.file_name) if size is None else size
            for image, size in zip(images, sizes, strict=True)
        ]
    return list(images), [size or 0 for size in sizes]


def _size_of(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except (OSError, ValueError):
        return None


def _find_respelled(missing: Sequence[Image], taken: set[str], folder: Path, file: Path) -> dict[int, str]:
    """Return the names of the files of images by their ids, where they are spelled in another way.

    Raises:
        DataError: An image is not there under any spelling, or another image has its file.
    """
    spellings = Spellings.of_folder(folder)
    found = {image.id: spellings.find(image.file_name) for image in missing}
    times = Counter(found.values())
    absent = [
        image for image in missing if (name := found[image.id]) is None or name in taken or times[name] > 1
    ]
    if absent:
        raise DataError(_describe_absent(absent, spellings, folder, file))
    return {image: name for image, name in found.items() if name is not None}


def _describe_absent(absent: Sequence[Image], spellings: Spellings, folder: Path, file: Path) -> str:
    shown = sorted(f"{image.file_name} (image {image.id})" for image in absent)[:5]
    near = next(((i, n) for i in absent if (n := spellings.near(i.file_name)) is not None), None)
    hint = f"; {folder} has {near[1]}, which may be {near[0].file_name}" if near else ""
    return (
        f"{file} lists {len(absent)} images that are not in {folder}: {', '.join(shown)}"
        f"{', ...' if len(absent) > 5 else ''}{hint}; complete the download or name their folder with "
        "--images"
    )
