"""Pack images and annotations into one shard: a tar, with offset and checksum of every sample.

`pack` depends on its task alone, so any process or machine may run it. webdataset's writer makes the tar,
plain ustar with fixed owner, mode and time: the same images give the same bytes.
"""

import hashlib
import json
import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from data_prep.annotations.coco import Image
from data_prep.annotations.image_checks import Checks, check_image
from data_prep.output import open_writer, write
from data_prep.packing.tar import HashingFile, SampleTar
from data_prep.wording import plural
from qdet.data.shards.locate import UNFINISHED
from qdet.data.shards.shard_set import key_of
from qdet.errors import DataError
from qdet.storage import Folder
from qdet.storage.parsing import parse_json

SHOWN = 10


@dataclass(frozen=True)
class ShardTask:
    """Content and destination of one shard."""

    store: Folder
    name: str
    """File name of the tar, with `.tar`."""
    images_folder: Path
    images: tuple[Image, ...]
    lengths: tuple[int, ...]
    """Size of each image file in bytes."""
    checks: Checks
    max_bad: int
    """Images that may be dropped."""

    @cached_property
    def plan(self) -> str:
        """SHA-256 of everything that determines the shard; its marker repeats it."""
        plan = hashlib.sha256(repr(self.lengths).encode())
        for image in self.images:
            plan.update(image.annotation)
        return plan.hexdigest()

    @property
    def index_name(self) -> str:
        """File name of the DALI index."""
        return str(PurePosixPath(self.name).with_suffix(".idx"))

    @property
    def marker(self) -> str:
        """Path of the file that marks the shard as finished and lists its samples."""
        return f"{UNFINISHED}/{PurePosixPath(self.name).with_suffix('.json')}"


def pack(task: ShardTask) -> dict[str, Any]:
    """Write the tar, its DALI index and, last, the marker; return the marker's content.

    Raises:
        DataError: More images are bad than the task allows; the message lists them, and nothing is written.
    """
    dropped: list[dict[str, Any]] = []
    with open_writer(task.store, task.name) as file:
        hashing = HashingFile(file)
        rows, listing, turned = _write_samples(task, hashing, dropped)
        if len(dropped) > task.max_bad:
            raise DataError(describe_dropped(dropped, task.max_bad))
    index = f"v1.2 {len(rows)}\n" + "".join(line + "\n" for line in listing)
    write(task.store, task.index_name, index.encode())
    done = {
        "plan": task.plan,
        "url": task.name,
        "nsamples": len(rows),
        "filesize": hashing.size,
        "sha256": hashing.sha256.hexdigest(),
        "rows": rows,
        "dropped": dropped,
        "turned": turned,
    }
    write(task.store, task.marker, json.dumps(done).encode())
    return done


def load_finished(task: ShardTask) -> dict[str, Any] | None:
    """Return the marker of an earlier `pack` of this task, or None if any of its files is incomplete."""
    try:
        done = parse_json(task.store.read(task.marker))
    except (OSError, ValueError):
        return None
    if done.get("plan") != task.plan or done.get("filesize") != task.store.size(task.name):
        return None
    return done if task.store.size(task.index_name) is not None else None


def describe_dropped(dropped: list[dict[str, Any]], allowed: int) -> str:
    """Return the error message that lists bad images and the ways out."""
    shown = [drop["reason"] for drop in dropped[:SHOWN]]
    more = [f"and {len(dropped) - SHOWN} more"] if len(dropped) > SHOWN else []
    bad = f"{plural(len(dropped), 'image')} {'is' if len(dropped) == 1 else 'are'} bad"
    return (
        f"{bad}, --max-bad {allowed} allows {allowed}; repair them, remove them from "
        "the annotation file, or raise the limit to drop and list them:\n  " + "\n  ".join(shown + more)
    )


def _write_samples(
    task: ShardTask, file: HashingFile, dropped: list[dict[str, Any]]
) -> tuple[list[dict[str, Any]], list[str], list[str]]:
    """Return the rows of the index, the lines of DALI's, and the images that EXIF turns."""
    rows, listing, turned = [], [], []
    tar = SampleTar(file)
    for image in task.images:
        try:
            checked = check_image(task.images_folder, image, task.checks)
        except DataError as error:
            dropped.append({"image_id": image.id, "file_name": image.file_name, "reason": str(error)})
            continue
        if len(dropped) > task.max_bad:
            continue  # the shard fails; only look for more bad images
        if checked.turned:
            turned.append(image.file_name)
        data, kind = checked.data, checked.kind
        annotation, key = image.annotation, key_of(image.id)
        at = tar.add(key, {kind: data, "json": annotation})
        sizes = {kind: len(data), "json": len(annotation)}
        listing.append(" ".join(f"{ext} {at[ext]} {sizes[ext]} {key}.{ext}" for ext in at))
        rows.append(
            {
                "image_offset": at[kind],
                "image_length": len(data),
                "image_crc32": zlib.crc32(data),
                "annotation_offset": at["json"],
                "annotation_length": len(annotation),
                "annotation_crc32": zlib.crc32(annotation),
                "width": image.width,
                "height": image.height,
                "image_id": image.id,
                "boxes": image.boxes,
            }
        )
    tar.close()
    return rows, listing, turned
