"""JPEG through simplejpeg, which refuses damage: except for bytes that no pixel needs.

Some programs leave bytes between the last pixel and the mark that follows it. libjpeg warns of them
("extraneous bytes before marker"), and simplejpeg makes an error of that. A body whose damage makes it end
early gives the same warning. What tells them apart is how the data before those bytes ends: an encoder fills
its last byte up with ones (ITU-T T.81, F.1.2.3), while damage ends anywhere. About a third of such damage
still looks whole by chance, as does damage that gives no warning at all: only checksums find those.
"""

import hashlib
import re
from collections.abc import Iterator

import numpy as np
import simplejpeg
from jaxtyping import UInt8

_EXTRANEOUS = re.compile(r"(\d+) extraneous bytes before marker 0x([0-9a-f]{2})")
_AHEAD = 12
"""Bytes, at most, that libjpeg has read ahead of the last pixel; it does not count them as extraneous."""
_MOST = 8
"""Places in one file that extraneous bytes are taken out of."""
_FILL = 3
"""Equal bytes in a row, before and behind the last pixel, that show a file that was filled up."""
_REMEMBERED = 4096
_SCAN, _END, _TABLES, _PROGRESSIVE = 0xDA, 0xD9, 0xDB, 0xC2
_RESTARTS = range(0xD0, 0xD8)
Cut = tuple[int, int]
"""First byte that is left out of a file, and the first that is not."""
_CUTS: dict[bytes, tuple[Cut, ...] | None] = {}
"""What files with extraneous bytes are read without, by their SHA-256: training reads them in every epoch."""


def decode_jpeg(data: bytes) -> UInt8[np.ndarray, "h w 3"]:
    """Decode to RGB.

    Raises:
        ValueError: Pixels are lost.
    """
    try:
        return simplejpeg.decode_jpeg(data, colorspace="RGB")
    except ValueError as error:
        if not _EXTRANEOUS.search(str(error)):
            raise
        return simplejpeg.decode_jpeg(_strip(data, error), colorspace="RGB")


def check_jpeg(data: bytes) -> None:
    """Raise ValueError where pixels are lost.

    An eighth of the size takes half of the time, and still all of the data.
    """
    error = _find_error(data)
    if error is not None:
        _strip(data, error)


def _find_error(data: bytes) -> ValueError | None:
    try:
        simplejpeg.decode_jpeg(data, colorspace="GRAY", min_height=1, min_width=1, min_factor=8)
    except ValueError as error:
        return error
    return None


def _strip(data: bytes, error: ValueError) -> bytes:
    """Return the file without the bytes that no pixel needs; raise `error` where pixels are lost."""
    name = hashlib.sha256(data).digest()
    if name not in _CUTS:
        if len(_CUTS) >= _REMEMBERED:
            _CUTS.clear()
        _CUTS[name] = _find_cuts(data)
    cuts = _CUTS[name]
    if cuts is None:
        raise error
    for begin, end in cuts:
        data = data[:begin] + data[end:]
    return data


def _find_cuts(data: bytes) -> tuple[Cut, ...] | None:
    """Return what to leave out, one cut after the other; None where pixels are lost."""
    cuts: list[Cut] = []
    while (error := _find_error(data)) is not None:
        cut = _find_cut(data, error) if len(cuts) < _MOST else None
        if cut is None:
            return None
        cuts.append(cut)
        data = data[: cut[0]] + data[cut[1] :]
    return tuple(cuts)


def _find_cut(data: bytes, error: ValueError) -> Cut | None:
    found = _EXTRANEOUS.search(str(error))
    if found is None:
        return None
    count, marker = int(found[1]), int(found[2], 16)
    for begin, end in _segments(data, marker):
        if end - count <= begin:
            continue
        whole = _message(data[: end - count] + data[end:])
        if whole == str(error):
            continue  # another segment before the same marker
        first = end - count
        while first - 1 > begin and end - count - first < _AHEAD:
            shorter = _message(data[: first - 1] + data[end:])
            if shorter not in ("", whole) and not _EXTRANEOUS.search(shorter):
                break
            first -= 1
        return (first, end) if _ends_as_encoded(data, first, end) else None
    return None


def _message(data: bytes) -> str:
    return str(_find_error(data) or "")


def _ends_as_encoded(data: bytes, first: int, end: int) -> bool:
    """Whether the last byte before `first` is filled up with ones, as an encoder leaves it."""
    fill = data[first]
    if data[first - _FILL : end] == bytes([fill]) * (end - first + _FILL):
        return False
    if data[first - 2 : first] == b"\xff\x00" or _is_progressive(data):
        return True  # a byte of ones; or last bits that count blocks, maybe beyond the image
    last = data[first - 1]
    lowest = ~last & (last + 1)  # the lowest bit that is 0: of a pixel, or it was no encoder
    changed = bytes([last | lowest]) + (b"\0" if last | lowest == 0xFF else b"")
    kept = data[:first] + data[end:]
    return _shows(kept) != _shows(data[: first - 1] + changed + data[end:])


def _shows(data: bytes) -> tuple[str, bytes, bytes]:
    """Return all that a change of a bit of a pixel may show in: what libjpeg says, and pixels.

    A small coefficient does not change any, so they are also decoded with large steps of quantization.
    """
    return _message(data), _decode_damaged(data), _decode_damaged(_coarsen(data))


def _decode_damaged(data: bytes) -> bytes:
    try:
        return simplejpeg.decode_jpeg(data, colorspace="RGB", strict=False).tobytes()
    except ValueError:
        return b""


def _coarsen(data: bytes) -> bytes:
    """Return a file whose tables of quantization, of 8 bits, hold 255 for all but the mean of a block."""
    changed = bytearray(data)
    for code, at, end in _headers(data):
        while code == _TABLES and at + 65 <= end and data[at] < 16:
            changed[at + 2 : at + 65] = b"\xff" * 63
            at += 65
    return bytes(changed)


def _is_progressive(data: bytes) -> bool:
    return any(code == _PROGRESSIVE for code, _, _ in _headers(data))


def _headers(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield marker, begin and end of the content of every segment before the first scan."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != _SCAN:
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        yield data[at + 1], at + 4, end
        at = end


def _segments(data: bytes, marker: int) -> Iterator[Cut]:
    """Yield begin and end of all coded data that a marker follows; walks as T.81, annex B lays files out."""
    at, coded = 2, False
    while at + 4 <= len(data) or (at + 2 <= len(data) and data[at + 1] == _END):
        if coded:
            begin = at
            at = data.find(b"\xff", at)
            while 0 <= at < len(data) - 1 and data[at + 1] in (0, 0xFF):
                at = data.find(b"\xff", at + (2 if data[at + 1] == 0 else 1))
            if at < 0 or at >= len(data) - 1:
                return
            if data[at + 1] == marker:
                yield begin, at
            coded = False
        code = data[at + 1]
        if data[at] != 0xFF or code == _END:
            return
        if code in _RESTARTS:
            at, coded = at + 2, True
        elif code == 0xFF:
            at += 1
        else:
            at, coded = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big"), code == _SCAN
