"""One shard: image files and their annotations into a tar, with offsets and checksums of every sample.

`pack` is a pure function of its task apart from the files it writes, so any process or machine may run it.
webdataset's own writer makes the tar, plain ustar with fixed owner, mode and time: the same images give the
same bytes.
"""

import hashlib
import json
import tarfile
import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from data_prep.annotations import Image
from data_prep.image_checks import Checks, checked_image
from data_prep.store import Store, write
from qdet.data.home import UNFINISHED
from qdet.data.shards import key_of
from qdet.errors import DataError

SHOWN = 10
_WHOLE = 2**30  # bytes that tarfile hands on at once: a member is not cut into pieces on its way


@dataclass(frozen=True)
class ShardTask:
    """What goes into one shard, and where it goes."""

    store: Store
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
            plan.update(_annotation(image))
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
    with task.store.file(task.name) as file:
        hashing = _Hashing(file)
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
    task: ShardTask, file: "_Hashing", dropped: list[dict[str, Any]]
) -> tuple[list[dict[str, Any]], list[str]]:
    rows, listing = [], []
    tar = _Tar(file)
    for image in task.images:
        try:
            data, kind = checked_image(task.images_folder, image, task.checks)
        except DataError as error:
            dropped.append({"image_id": image.id, "file_name": image.file_name, "reason": str(error)})
            continue
        if len(dropped) > task.max_bad:
            continue  # the shard is lost; only look for what else is wrong
        note, key = _annotation(image), key_of(image.id)
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
                "boxes": len(image.boxes),
            }
        )
    tar.close()
    return rows, listing


def _annotation(image: Image) -> bytes:
    note = {
        "image_id": image.id,
        "file_name": image.file_name,
        "width": image.width,
        "height": image.height,
        "annotation_ids": [box.id for box in image.boxes],
        "category_ids": [box.category_id for box in image.boxes],
        "boxes_xywh": [box.xywh for box in image.boxes],
        "areas": [box.area for box in image.boxes],
        "iscrowd": [box.iscrowd for box in image.boxes],
    }
    return json.dumps(note, separators=(",", ":")).encode("ascii")


class _Tar:
    """webdataset's writer, which also says where it put every member.

    It streams a tar in records of 10 kB, each of which would be hashed and written by itself; a tar onto a
    file gets members whole, in half the time.
    """

    def __init__(self, file: "_Hashing") -> None:
        from webdataset.writer import (
            TarWriter,  # brings PyTorch along: only processes that write shards need it
        )

        whole: Any = file  # all that a tar needs of a file which it only appends to
        self._writer = TarWriter(whole, user="", group="", mode=0o644, mtime=0, encoder=False)
        self._tar = tarfile.TarFile(fileobj=whole, mode="w", format=tarfile.USTAR_FORMAT, copybufsize=_WHOLE)
        self._writer.tarstream = self._tar

    def add(self, key: str, files: dict[str, bytes]) -> dict[str, int]:
        """Append a sample; return, in the order in which they were written, where its files begin."""
        at, begins = self._tar.offset, {}
        self._writer.write({"__key__": key, **files})
        for extension in sorted(files):
            begins[extension] = at + tarfile.BLOCKSIZE
            at = begins[extension] + -(-len(files[extension]) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
        if at != self._tar.offset:
            raise RuntimeError(f"webdataset wrote sample {key} in another way than one header per file")
        return begins

    def close(self) -> None:
        self._writer.close()


class _Hashing:
    """A file that counts and hashes what is written to it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.size, self.sha256 = file, 0, hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.size += len(data)
        self.sha256.update(data)
        return self._file.write(data)

    def tell(self) -> int:
        return self.size
