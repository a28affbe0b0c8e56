"""Scan one third-party WebDataset shard, from its first header to its last, for where each sample is.

Members are grouped as webdataset groups them: neighbours with the same name up to the first dot are a sample.
Where webdataset would silently lose or mix samples, the shard is refused: names with further dots, keys that
come again, a truncated tar. Links, devices, pickles and paths that leave the folder are refused too; nothing
is ever unpacked. A sample that alone cannot be used is only listed: no image or no JSON, a wrong size.
"""

import hashlib
import os
import re
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby
from typing import IO, Any

from qdet.data.shards.annotations import image_id_of, read_sample
from qdet.data.shards.forms import Kind
from qdet.data.shards.report import Report
from qdet.errors import DataError
from qdet.storage.file_kinds import misplaced_kind

IMAGES = {"jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff"}
META = re.compile(r"__[^/]*__($|/)")  # what webdataset passes over
_PICKLES = {"pickle", "pkl", "pyd", "pth", "pt"}


@dataclass
class Scan:
    """What one shard holds."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    """A row of the index for each sample."""
    kinds: set[Kind] = field(default_factory=set)
    """Classes of its boxes."""
    categories: set[tuple[int, str]] = field(default_factory=set)
    """Ids and names that its JSON explains."""
    report: Report = field(default_factory=Report)
    """Counts of irregular objects."""
    crowds: int = 0
    bad: list[dict[str, str]] = field(default_factory=list)
    """Key of every sample that cannot be used, and why."""
    filesize: int = 0
    sha256: str = ""


def scan_shard(descriptor: int, *, name: str, max_pixels: int) -> Scan:
    """Scan the tar behind a file descriptor, which is closed; `name` stands for it in errors.

    An image of more than `max_pixels` is found by its header alone.

    Raises:
        DataError: The shard is damaged, or would lose or mix samples.
    """
    with os.fdopen(descriptor, "rb") as file:
        scan = Scan(filesize=os.fstat(file.fileno()).st_size)
        seen: set[str] = set()
        for key, members in groupby(_members(file, name), key=lambda member: key_and_kind(member, name)[0]):
            if key in seen:
                raise DataError(
                    f"{name}, sample {key}: comes more than once; keep the files of a sample together "
                    "and its name its own"
                )
            seen.add(key)
            files = list(members)
            try:
                _add_sample(scan, file, files, f"{name}, sample {key}", key, max_pixels)
            except DataError as error:
                scan.bad.append({"key": key, "reason": str(error)})
        file.seek(0)
        scan.sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return scan


def _members(file: IO[bytes], name: str) -> Iterator[tarfile.TarInfo]:
    """The files in a tar; DataError where it is no tar, or ends without the mark of its end."""
    last = "its first member"
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                if not member.isdir() and not META.match(member.name):
                    check_member(member, name)
                    yield member
                    last = f"member {member.name}"
            end = tar.offset
    except tarfile.TarError as error:
        if (other := _misplaced(file)) is not None:
            raise DataError(f"{name} is {other}") from error
        raise DataError(
            f"{name} is damaged at or after {last} ({error}), or is no uncompressed tar; copy it again"
        ) from error
    file.seek(end)
    rest = file.read()
    # tarfile takes a damaged header for the end; only two blocks of zeros, and zeros alone, are one.
    if len(rest) < 2 * tarfile.BLOCKSIZE or rest.strip(b"\0"):
        raise DataError(f"{name} is truncated or damaged after {last}, at byte {end}; copy it again")


def _misplaced(file: IO[bytes]) -> str | None:
    file.seek(0)
    return misplaced_kind(file.read(64))


def check_member(member: tarfile.TarInfo, name: str) -> None:
    """Raise DataError unless a member is a plain file within its shard."""
    if not member.isreg() or member.sparse is not None:
        raise DataError(f"{name}: member {member.name} is no plain file; shards hold plain files only")
    if member.name.startswith("/") or ".." in member.name.split("/"):
        raise DataError(f"{name}: member {member.name} leads out of the shard; pack it again")


def key_and_kind(member: tarfile.TarInfo, name: str) -> tuple[str, str]:
    """Key of the sample that a member belongs to, and its extension; DataError where its name has none."""
    folder, slash, file = member.name.rpartition("/")
    stem, _, kind = file.partition(".")
    if not stem or not kind:
        raise DataError(f"{name}: member {member.name} is not named KEY.jpg or KEY.json; rename it")
    if "." in kind:
        raise DataError(
            f"{name}: member {member.name} has more than one dot, so that its sample would be "
            f"{folder}{slash}{stem} and run into others; rename it without further dots"
        )
    if kind.lower() in _PICKLES:
        raise DataError(f"{name}: member {member.name} is a pickle, which could run code; leave it out")
    return f"{folder}{slash}{stem}", kind.lower()


def _add_sample(
    scan: Scan, file: IO[bytes], members: list[tarfile.TarInfo], name: str, key: str, max_pixels: int
) -> None:
    kinds = [key_and_kind(member, name)[1] for member in members]
    images = [member for member, kind in zip(members, kinds, strict=True) if kind in IMAGES]
    json_files = [member for member, kind in zip(members, kinds, strict=True) if kind == "json"]
    if len(images) != 1 or len(json_files) != 1:
        raise DataError(
            f"{name}: has {len(images)} images and {len(json_files)} JSON files ({', '.join(kinds)}) where "
            "one of each makes a sample; pack it again"
        )
    (image,), (annotation,) = images, json_files
    pixels, text = (os.pread(file.fileno(), m.size, m.offset_data) for m in (image, annotation))
    (height, width), read = read_sample(pixels, text, name=name, max_pixels=max_pixels, report=scan.report)
    scan.kinds.update(read.kinds)
    scan.crowds += sum(read.iscrowd)
    scan.categories.update(read.categories)
    scan.rows.append(
        {
            "image_offset": image.offset_data,
            "image_length": image.size,
            "image_crc32": zlib.crc32(pixels),
            "annotation_offset": annotation.offset_data,
            "annotation_length": annotation.size,
            "annotation_crc32": zlib.crc32(text),
            "width": width,
            "height": height,
            "image_id": image_id_of(key, read.image_id),
            "boxes": len(read.boxes_xywh),
            "key": key,
        }
    )
