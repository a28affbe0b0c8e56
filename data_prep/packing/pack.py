"""One shard: image files and their annotations into a tar, with offsets and checksums of every sample.

`pack` is a pure function of its task apart from the files it writes, so any process or machine may run it.
webdataset's own writer makes the tar, plain ustar with fixed owner, mode and time: the same images give the
same bytes.
"""

import hashlib
import json
import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from data_prep.annotations.coco import Image
from data_prep.annotations.image_checks import Checks, checked_image
from data_prep.output import open_writer, write
from data_prep.packing.tar import HashingFile, SampleTar
from qdet.data.shards.locate import UNFINISHED
from qdet.data.shards.shard_set import key_of
from qdet.errors import DataError
from qdet.storage import Folder

SHOWN = 10


@dataclass(frozen=True)
class ShardTask:
    """What goes into one shard, and where it goes."""

    store: Folder
    name: str
    """Of the tar, `.tar` included."""
    images_folder: Path
    images: tuple[Image, ...]
    lengths: tuple[int, ...]
    """Bytes of each image file."""
    checks: Checks
    max_bad: int
    """Images that may be left out."""

    @cached_property
    def plan(self) -> str:
        """Hash of what decides the shard's content: a marker with this hash means it is done."""
        plan = hashlib.sha256(repr(self.lengths).encode())
        for image in self.images:
            plan.update(image.note)
        return plan.hexdigest()

    @property
    def index_name(self) -> str:
        """The file of offsets that DALI reads."""
        return str(PurePosixPath(self.name).with_suffix(".idx"))

    @property
    def marker(self) -> str:
        """The file that says that the shard is finished, and what it holds."""
        return f"{UNFINISHED}/{PurePosixPath(self.name).with_suffix('.json')}"


def pack(task: ShardTask) -> dict[str, Any]:
    """Write the tar, its DALI index and, last, the marker; return what the marker holds.

    Raises DataError that lists the images of the shard that cannot be taken where there are more of them than
    the task allows; then nothing is written.
    """
    dropped: list[dict[str, Any]] = []
    with open_writer(task.store, task.name) as file:
        hashing = HashingFile(file)
        rows, listing = _write_samples(task, hashing, dropped)
        if len(dropped) > task.max_bad:
            raise DataError(too_many_dropped(dropped, task.max_bad))
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
    }
    write(task.store, task.marker, json.dumps(done).encode())
    return done


def finished(task: ShardTask) -> dict[str, Any] | None:
    """What an earlier `pack` of the same task left, if shard and marker are whole."""
    try:
        done = json.loads(task.store.read(task.marker))
    except (OSError, ValueError):
        return None
    if done.get("plan") != task.plan or done.get("filesize") != task.store.size(task.name):
        return None
    return done if task.store.size(task.index_name) is not None else None


def too_many_dropped(dropped: list[dict[str, Any]], allowed: int) -> str:
    """Say which images cannot be taken and what can be done about them."""
    shown = [drop["reason"] for drop in dropped[:SHOWN]]
    more = [f"and {len(dropped) - SHOWN} more"] if len(dropped) > SHOWN else []
    return (
        f"{len(dropped)} images cannot be taken, --max-bad {allowed} allows {allowed}; mend them, remove "
        "them from the annotation file or raise the limit, and they are left out and listed:\n  "
        + "\n  ".join(shown + more)
    )


def _write_samples(
    task: ShardTask, file: HashingFile, dropped: list[dict[str, Any]]
) -> tuple[list[dict[str, Any]], list[str]]:
    rows, listing = [], []
    tar = SampleTar(file)
    for image in task.images:
        try:
            data, kind = checked_image(task.images_folder, image, task.checks)
        except DataError as error:
            dropped.append({"image_id": image.id, "file_name": image.file_name, "reason": str(error)})
            continue
        if len(dropped) > task.max_bad:
            continue  # the shard is lost; only look for what else is wrong
        note, key = image.note, key_of(image.id)
        at = tar.add(key, {kind: data, "json": note})
        sizes = {kind: len(data), "json": len(note)}
        listing.append(" ".join(f"{ext} {at[ext]} {sizes[ext]} {key}.{ext}" for ext in at))
        rows.append(
            {
                "image_offset": at[kind],
                "image_length": len(data),
                "image_crc32": zlib.crc32(data),
                "annotation_offset": at["json"],
                "annotation_length": len(note),
                "annotation_crc32": zlib.crc32(note),
                "width": image.width,
                "height": image.height,
                "image_id": image.id,
                "boxes": image.boxes,
            }
        )
    tar.close()
    return rows, listing
