"""A file of records, one per line, read from an offset that counts on as its front is cut off.

Its first line may be `{"before": N}`: N bytes stood before the second, and are not needed any more. A file is
only appended to, or replaced as a whole, so a process may be killed at any moment.
"""

import contextlib
import json
import logging
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from qdet.storage.parsing import parse_json_object
from qdet.tracking.spool.thinning import Record, Thinning

CUT_OFF = 4 << 20
"""Bytes that are not needed any more before they are cut off."""
WAITING = 128 << 20
"""Bytes that wait for the server before they are thinned."""
THINNED_TAG = "qdet.thinned"
"""Tag that says how many points a run lacks."""
_BEFORE = "before"

_log = logging.getLogger(__name__)


class PointsFile:
    """The records of one spool. Not safe between threads."""

    def __init__(self, path: Path) -> None:
        self._path, self._tried = path, 0
        self._open()
        if self._size and os.pread(self._out, 1, self._size - 1) != b"\n":
            self._size += os.write(self._out, b"\n")  # completes a line cut off by a kill

    def close(self) -> None:
        """Close the file."""
        os.close(self._out)

    @property
    def begin(self) -> int:
        """Offset of the first record that is still here."""
        return self._before

    @property
    def end(self) -> int:
        """Offset behind the last record."""
        return self._before + self._size - self._header

    def append(self, records: Sequence[Record]) -> None:
        """Write records durably, or none of them and raise OSError."""
        data, written = b"".join(map(to_line, records)), 0
        try:
            while written < len(data):
                written += os.write(self._out, data[written:])
        except OSError:
            os.ftruncate(self._out, self._size)
            raise
        self._size += len(data)

    def records(self, offset: int) -> Iterator[tuple[Record, int]]:
        """Yield the records from an offset on, each with the offset of its end; damaged ones are left out."""
        end = max(offset, self._before)
        for line in self._lines(offset):
            end += len(line)
            record = parse_line(line)
            if record is not None and _is_record(record):
                yield record, end

    def cut_off(self, offset: int) -> None:
        """Let the file begin at an offset, where that saves more than it costs."""
        done = offset - self._before
        if done > max(CUT_OFF, self.end - offset):  # so that a byte is copied once at most, on average
            self._rewrite(offset, self._lines(offset))

    def thin(self, offset: int, keep: int) -> None:
        """Drop every second point of long curves and say so, if too much waits for the server.

        Args:
            offset: Up to which the server has the points.
            keep: Offset up to which records stay: a request may be under way with them.
        """
        waiting = self.end - max(offset, self._before)
        if waiting <= max(WAITING, self._tried + WAITING // 4):  # what does not shrink is not tried again
            return
        thinning, first = Thinning(), max(offset, self._before)
        thinning.count(record for record, _ in self.records(max(first, keep)))
        self._rewrite(first, self._lines_but(thinning, first, max(first, keep)))
        self._tried = self._size
        if not thinning.dropped:
            return
        said = f"{thinning.dropped} of {thinning.points} points, every second of long curves,"
        _log.warning("MLflow takes no points for long: %s are dropped from %s", said, self._path)
        said += " were dropped while MLflow was away"
        self.append([{"at": int(time.time() * 1000), "kind": "tags", "values": {THINNED_TAG: said}}])

    def _lines_but(self, thinning: Thinning, offset: int, keep: int) -> Iterator[bytes]:
        end = offset
        for line in self._lines(offset):
            end += len(line)
            if end <= keep:
                yield line
        yield from thinning.choose((parse_line(line) or {}, line) for line in self._lines(keep))

    def _open(self) -> None:
        self._out = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        self._size = os.fstat(self._out).st_size
        with self._path.open("rb") as lines:
            first = lines.readline()
        before = (parse_line(first) or {}).get(_BEFORE)
        self._before, self._header = 0, 0
        if isinstance(before, int) and before >= 0:
            self._before, self._header = before, len(first)

    def _lines(self, offset: int) -> Iterator[bytes]:
        """Yield the whole lines from an offset on."""
        with self._path.open("rb") as lines:
            lines.seek(max(self._header, offset - self._before + self._header))
            for line in lines:
                if line.endswith(b"\n"):
                    yield line

    def _rewrite(self, offset: int, lines: Iterable[bytes]) -> None:
        """Replace the file by one with these lines, the first of which begins at `offset`."""
        beside = self._path.with_suffix(".new")
        with beside.open("wb") as out:
            out.write(to_line({_BEFORE: offset}))
            out.writelines(lines)
        beside.replace(self._path)
        os.close(self._out)
        self._open()


def to_line(content: Any) -> bytes:
    """Return JSON as one line."""
    return json.dumps(content).encode() + b"\n"


def parse_line(line: bytes) -> Record | None:
    """Return the record in a line; None where that is damaged."""
    with contextlib.suppress(ValueError):
        return parse_json_object(line)
    return None


def _is_record(content: Record) -> bool:
    """Whether a line says what it is, and of points also which."""
    points = isinstance(content.get("values"), dict) and content.keys() >= {"step", "at"}
    return isinstance(content.get("kind"), str) and (content["kind"] != "metrics" or points)
