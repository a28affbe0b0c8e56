"""What lies where in a set of shards: one row per sample, one column per fact.

With it a sample is read by offset, in any order, without walking through its tar. COCO's 118k training
samples take 6 MB, which load in milliseconds.
"""

import io
import struct
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64, Shaped, UInt, UInt16, UInt32

from qdet.errors import DataError

COLUMNS = {
    "shard": np.uint16,
    "image_offset": np.int64,
    "image_length": np.uint32,
    "image_crc32": np.uint32,
    "annotation_offset": np.int64,
    "annotation_length": np.uint32,
    "annotation_crc32": np.uint32,
    "width": np.uint16,
    "height": np.uint16,
    "image_id": np.int64,
    "boxes": np.uint32,
}
WIDE: dict[str, Any] = {"shard": np.uint32}
"""Columns that are wider where a dataset needs it: more than 65,536 shards."""
_LOCAL_HEADER = 30
"""Bytes of the header of a zip file's member, without name and extra field."""
_NAME_LENGTHS = 26
"""Where that header says how long those two are."""


@dataclass(frozen=True)
class Index:
    """Columns of equal length n; row r describes the sample at position r of the shards laid end to end."""

    shard: UInt[np.ndarray, " n"]
    """Which shard holds the sample."""
    image_offset: Int64[np.ndarray, " n"]
    """First byte of the image in its shard."""
    image_length: UInt32[np.ndarray, " n"]
    image_crc32: UInt32[np.ndarray, " n"]
    annotation_offset: Int64[np.ndarray, " n"]
    """First byte of the JSON annotation in the same shard."""
    annotation_length: UInt32[np.ndarray, " n"]
    annotation_crc32: UInt32[np.ndarray, " n"]
    width: UInt16[np.ndarray, " n"]
    height: UInt16[np.ndarray, " n"]
    image_id: Int64[np.ndarray, " n"]
    """The dataset's own id."""
    boxes: UInt32[np.ndarray, " n"]
    """Annotated boxes, crowds included."""
    key: Shaped[np.ndarray, " n"] | None = None
    """Name of the sample in its shard, where it does not follow from the image id."""

    def __len__(self) -> int:
        return len(self.shard)

    def to_bytes(self) -> bytes:
        """Serialise as an npz file, the same bytes for the same columns."""
        file = io.BytesIO()
        columns = {f.name: getattr(self, f.name) for f in fields(self)}
        np.savez(file, **{name: column for name, column in columns.items() if column is not None})
        return file.getvalue()


def index_from_rows(rows: Sequence[Mapping[str, Any]]) -> Index:
    """Put one dictionary per sample into columns; DataError for a number that a column cannot hold."""
    columns: dict[str, np.ndarray] = {}
    for name, kind in COLUMNS.items():
        largest = max((row[name] for row in rows), default=0)
        if largest > np.iinfo(kind).max:
            kind = WIDE.get(name, kind)
        try:
            columns[name] = np.array([row[name] for row in rows], dtype=kind)
        except OverflowError as error:
            raise DataError(
                f"a sample has {name} {largest}, an index holds up to {np.iinfo(kind).max}; "
                "make larger shards or smaller images"
            ) from error
    if rows and "key" in rows[0]:
        columns["key"] = np.array([row["key"].encode("utf-8", "surrogateescape") for row in rows])
    return Index(**columns)


def index_from_file(file: Path) -> Index:
    """Map the columns of a file that `Index.to_bytes` made: the processes of a machine share its memory.

    The columns lie in the file as they are in memory, since `np.savez` does not compress.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            columns = {
                Path(entry.filename).stem: _map_column(file, archive, entry) for entry in archive.infolist()
            }
        loaded = {name: columns[name] for name in (*COLUMNS, *({"key"} & columns.keys()))}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{file} is no index of shards ({error}); convert the dataset again") from error
    wrong = [
        name
        for name, kind in COLUMNS.items()
        if loaded[name].dtype not in (kind, WIDE.get(name, kind)) or loaded[name].ndim != 1
    ]
    if wrong or len({len(column) for column in loaded.values()}) != 1:
        raise DataError(
            f"{file} has columns of different lengths or of wrong kinds ({', '.join(wrong) or 'lengths'}); "
            "convert the dataset again"
        )
    return Index(**loaded)


def _map_column(file: Path, archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> np.ndarray:
    if entry.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{entry.filename} is compressed")
    with archive.open(entry) as column:
        version = np.lib.format.read_magic(column)
        if version != (1, 0):
            raise ValueError(f"{entry.filename} has format {version}")
        shape, _, kind = np.lib.format.read_array_header_1_0(column)
        header = column.tell()
    if kind.hasobject:
        raise ValueError(f"{entry.filename} holds objects")
    with file.open("rb") as raw:
        raw.seek(entry.header_offset + _NAME_LENGTHS)
        # The name and the extra field before the data are not always as long as in the directory at the end.
        before = _LOCAL_HEADER + sum(struct.unpack("<HH", raw.read(4)))
    if not shape[0]:
        return np.empty(shape, kind)  # nothing to map
    # As a plain array: a memmap's own indexing is slower.
    return np.asarray(np.memmap(file, kind, "r", offset=entry.header_offset + before + header, shape=shape))
