"""Write one rank's pieces as a safetensors file, hashing while writing.

safetensors' own writer copies every tensor, needs a local path and holds the GIL while it writes, which would
block training. The format is a table of contents and the bytes; the library reads it.
"""

import hashlib
import json
import math
import mmap
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Shaped
from torch import Tensor

from qdet.checkpoint.pieces import Piece
from qdet.storage import Folder
from qdet.storage.parsing import parse_json_object

CHUNK = 8 * 2**20  # bytes per write

_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


_KINDS = {name: dtype for dtype, name in _DTYPES.items()}


@dataclass(frozen=True)
class Fingerprint:
    """Size and digest of a file."""

    bytes: int
    sha256: str


def fingerprint(content: bytes) -> Fingerprint:
    """Return the fingerprint of a small file."""
    return Fingerprint(len(content), hashlib.sha256(content).hexdigest())


def write_pieces(folder: Folder, name: str, pieces: Sequence[Piece]) -> Fingerprint:
    """Write `pieces`, which are on the CPU, into the file `name` and return its fingerprint."""
    # Widest elements first, so that every piece is aligned.
    ordered = sorted(pieces, key=lambda p: (-p.values.element_size(), p.key))
    digest, written = hashlib.sha256(), 0
    with folder.writer(name, atomic=False) as file:
        for content in (_head(ordered), *(memoryview(_bytes(piece)) for piece in ordered)):
            for at in range(0, len(content), CHUNK):
                chunk = content[at : at + CHUNK]
                file.write(chunk)
                digest.update(chunk)
                written += len(chunk)
    return Fingerprint(written, digest.hexdigest())


def read_pieces(content: mmap.mmap | bytearray) -> Iterator[tuple[str, Shaped[Tensor, " n"]]]:
    """Yield the pieces in the content of a file of `write_pieces`, by their keys; they share its memory.

    safetensors 0.8 leaks two integers for every tensor that it reads, which adds up in a process that reads
    all of its checkpoints back.

    Raises:
        ValueError: It is not what was written.
    """
    try:
        (length,) = struct.unpack_from("<Q", content)
        table = parse_json_object(bytes(content[8 : 8 + length]))
        for key, said in table.items():
            start, end = said["data_offsets"]
            dtype = _KINDS[said["dtype"]]
            count, at = math.prod(said["shape"]), 8 + length + start
            if end - start != count * dtype.itemsize:
                raise ValueError(f"{key} has {end - start} bytes for {count} numbers")
            here = torch.frombuffer(content, dtype=dtype, count=count, offset=at) if count else None
            yield key, torch.empty(0, dtype=dtype) if here is None else here
    except (struct.error, KeyError, TypeError) as error:
        raise ValueError(f"it has no table of pieces: {error!r}") from error


def _head(pieces: Sequence[Piece]) -> bytes:
    table, end = {}, 0
    for piece in pieces:
        start, end = end, end + piece.nbytes
        dtype = _DTYPES[piece.values.dtype]
        table[piece.key] = {"dtype": dtype, "shape": [piece.values.numel()], "data_offsets": [start, end]}
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _bytes(piece: Piece) -> memoryview:
    return piece.values.contiguous().view(torch.uint8).numpy().data
