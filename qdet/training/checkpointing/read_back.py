"""Compare what a checkpoint holds with what the device held: bits may flip in a copy or on a disk."""

import mmap
from collections.abc import Iterable, Mapping

from qdet.checkpoint import Piece
from qdet.checkpoint.rank_file import read_pieces
from qdet.checkpoint.tensor_digest import digest
from qdet.errors import CheckpointError
from qdet.storage import Folder


def digest_pieces(pieces: Iterable[Piece]) -> dict[str, int]:
    """Return the digests of pieces by their keys, computed where they are."""
    return {piece.key: int(digest(piece.values)) for piece in pieces}


def check_written(folder: Folder, name: str, expected: Mapping[str, int]) -> None:
    """Read a file of pieces back and compare every one with its digest.

    Raises:
        CheckpointError: One is another.
    """
    try:
        found = _read_digests(folder, name)
    except ValueError as error:
        raise CheckpointError(f"{folder}/{name} does not read as it was written: {error}") from error
    wrong = [key for key, value in expected.items() if found.get(key) != value]
    if wrong:
        raise CheckpointError(
            f"silent corruption: {len(wrong)} pieces of {folder}/{name}, such as {wrong[0]}, are not what "
            "the device held; have memory and disk of this host tested"
        )


def _read_digests(folder: Folder, name: str) -> dict[str, int]:
    if folder.local is None:
        return _digest_content(bytearray(folder.read(name)))
    with (folder.local / name).open("rb") as file:
        return _digest_content(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))


def _digest_content(content: mmap.mmap | bytearray) -> dict[str, int]:
    return {key: int(digest(values)) for key, values in read_pieces(content)}
