"""Write one rank's pieces as a safetensors file, hashing while writing.

safetensors' own writer copies every tensor, needs a local path and holds the GIL while it writes, which would
block training. The format is a table of contents and the bytes; the library reads it.
"""

import hashlib
import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from qdet.checkpoint.pieces import Piece
from qdet.storage import Folder

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
