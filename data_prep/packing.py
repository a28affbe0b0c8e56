"""One shard: image files and their annotations into a tar, with offsets and checksums of every sample.

`pack` is a pure function of its task apart from the files it writes, so any process or machine may run it.
The tar is plain ustar with fixed owner, mode and time: the same images give the same bytes.
"""

import hashlib
import io
import json
import tarfile
import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

from data_prep.annotations import Image
from data_prep.atomic import atomic_file, write_atomically
from qdet.data.images import decode, kind_of, size_hw
from qdet.data.shards import key_of
from qdet.errors import DataError

_SHOWN = 10


@dataclass(frozen=True)
class ShardTask:
    """What goes into one shard."""

    tar: Path
    images_folder: Path
    images: tuple[Image, ...]
    lengths: tuple[int, ...]
    """Bytes of each image file."""
    max_pixels: int
    decode: bool

    @cached_property
    def plan(self) -> str:
        """Hash of what decides the shard's content: a marker with this hash means it is done."""
        plan = hashlib.sha256(repr(self.lengths).encode())
        for image in self.images:
            plan.update(_annotation(image))
        return plan.hexdigest()


def pack(task: ShardTask, marker: Path) -> dict[str, Any]:
    """Write the tar, its DALI index and, last, the marker; return what the marker holds.

    Raises DataError that lists every image of the shard that cannot be taken; then nothing is written.
    """
    problems: list[str] = []
    with atomic_file(task.tar) as file:
        hashing = _Hashing(file)
        rows, listing = _write_samples(task, hashing, problems)
        if problems:
            more = f"\n  and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
            raise DataError(
                "images that cannot be taken; mend them, or remove them from the annotation file:\n  "
                + "\n  ".join(problems[:_SHOWN])
                + more
            )
    index = f"v1.2 {len(rows)}\n" + "".join(line + "\n" for line in listing)
    write_atomically(task.tar.with_suffix(".idx"), index.encode())
    done = {
        "plan": task.plan,
        "url": task.tar.name,
        "nsamples": len(rows),
        "filesize": hashing.size,
        "sha256": hashing.sha256.hexdigest(),
        "rows": rows,
    }
    write_atomically(marker, json.dumps(done).encode())
    return done


def finished(task: ShardTask, marker: Path) -> dict[str, Any] | None:
    """What an earlier `pack` of the same task left, if shard and marker are whole."""
    try:
        done = json.loads(marker.read_bytes())
        size = task.tar.stat().st_size
    except (OSError, ValueError):
        return None
    whole = done.get("plan") == task.plan and done.get("filesize") == size
    return done if whole and task.tar.with_suffix(".idx").is_file() else None


def _write_samples(
    task: ShardTask, file: "_Hashing", problems: list[str]
) -> tuple[list[dict[str, Any]], list[str]]:
    rows, listing = [], []
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:  # type: ignore[arg-type]
        for image in task.images:
            try:
                data, kind = _checked_image(image, task)
            except DataError as error:
                problems.append(str(error))
                continue
            if problems:
                continue  # the shard is lost; only look for what else is wrong
            note = _annotation(image)
            key = key_of(image.id)
            image_at = _add(tar, f"{key}.{kind}", data)
            note_at = _add(tar, f"{key}.json", note)
            listing.append(
                f"{kind} {image_at} {len(data)} {key}.{kind} json {note_at} {len(note)} {key}.json"
            )
            rows.append(
                {
                    "image_offset": image_at,
                    "image_length": len(data),
                    "image_crc32": zlib.crc32(data),
                    "annotation_offset": note_at,
                    "annotation_length": len(note),
                    "annotation_crc32": zlib.crc32(note),
                    "width": image.width,
                    "height": image.height,
                    "image_id": image.id,
                    "boxes": len(image.boxes),
                }
            )
    return rows, listing


def _checked_image(image: Image, task: ShardTask) -> tuple[bytes, str]:
    path = task.images_folder / image.file_name
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} (image {image.id}) cannot be read: {error.strerror or error}") from error
    name = f"{path} (image {image.id})"
    height, width = size_hw(data, name=name)
    if (height, width) != (image.height, image.width):
        turned = (width, height) == (image.height, image.width)
        hint = "; turned by its EXIF orientation? Store the pixels upright" if turned else ""
        raise DataError(
            f"{name} is {width}x{height} pixels, the annotation file says {image.width}x{image.height}{hint}"
        )
    if height * width > task.max_pixels:
        raise DataError(
            f"{name} has {height * width} pixels, more than --max-pixels {task.max_pixels}; "
            "make it smaller or raise the limit"
        )
    if task.decode:
        decode(data, name=name)
    return data, kind_of(data, name=name)


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


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> int:
    """Append a member; return where its content begins."""
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(data), 0o644
    begins = tar.offset + tarfile.BLOCKSIZE
    tar.addfile(member, io.BytesIO(data))
    return begins


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
