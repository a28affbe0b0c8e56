"""A run's points on local disk until the server has them.

    run.json       the run: server, experiment, name, id once it is known
    points.jsonl   one record per line, appended to; what the server has is cut off now and then
    sent           offset up to which the server has the points
    files/         pictures and artifacts not yet sent
    refused.jsonl  records that the server refuses, with its reason

A killed process loses at most what it had not yet written; the next one in the same folder continues. All of
it is bounded: what the server has goes, and while it is away long curves are thinned and files refused at a
limit.
"""

import contextlib
import fcntl
import json
import shutil
import threading
import uuid
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from qdet.storage.parsing import parse_json_object
from qdet.tracking.spool.points_file import PointsFile, parse_line, to_line
from qdet.tracking.spool.thinning import Record

COPIED_BELOW = 4 << 20
"""Files under this many bytes are copied, larger ones hard-linked if the file system can."""
FILES = 1 << 30
"""Bytes of pictures and artifacts that wait for the server before further ones are refused."""
REFUSED = 64 << 20
"""Bytes of records that the server has refused before further ones are dropped."""


class SpoolFullError(OSError):
    """As much waits for the server as may."""


class Spool:
    """A file of records with a cursor, owned by one process at a time, whose threads may share it."""

    def __init__(self, folder: Path) -> None:
        """Lock `folder`; raise BlockingIOError if another process has it."""
        self.folder = folder.absolute()
        self._files = self.folder / "files"
        self._files.mkdir(parents=True, exist_ok=True)
        self._lock = (self.folder / "lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.close()
            raise
        self._mutex = threading.Lock()
        self._points = PointsFile(self.folder / "points.jsonl")
        self._given_out = 0
        self._held = _bytes_of(self._files)
        if self.sent() > self._points.end:  # of a file of points that is gone
            _replace(self.folder / "sent", str(self._points.begin))

    def close(self) -> None:
        """Release the folder."""
        self._points.close()
        self._lock.close()

    def about(self) -> dict[str, Any]:
        """Return the content of run.json."""
        with contextlib.suppress(FileNotFoundError, ValueError):
            return parse_json_object((self.folder / "run.json").read_text())
        return {}

    def describe(self, about: dict[str, Any]) -> None:
        """Write run.json."""
        _replace(self.folder / "run.json", json.dumps(about, indent=1))

    def append(self, records: Sequence[Record]) -> None:
        """Write records durably, or none of them and raise OSError; thin what waits if that is too much."""
        with self._mutex:
            self._points.append(records)
            with contextlib.suppress(OSError):
                self._points.thin(self.sent(), self._given_out)

    def unsent(self, most: int = 1000) -> list[tuple[Record, int]]:
        """Return the next records, each with the offset at which it ends."""
        with self._mutex:
            found = list(islice(self._points.records(self.sent()), most))
            self._given_out = found[-1][1] if found else self._given_out
            return found

    def sent(self) -> int:
        """Offset up to which the server has the points."""
        with contextlib.suppress(FileNotFoundError, ValueError):
            return max(0, int((self.folder / "sent").read_text()))
        return 0

    def advance(self, record: Record, offset: int, *, refused: bool = False) -> None:
        """Mark all up to `offset`, where `record` ends, as done; delete its file if it was sent."""
        with self._mutex:
            _replace(self.folder / "sent", str(offset))
            if "file" in record and not refused:
                held = (self.folder / record["file"]).parent
                self._held -= _bytes_of(held)
                shutil.rmtree(held, ignore_errors=True)
            with contextlib.suppress(OSError):
                self._points.cut_off(offset)

    def refuse(self, record: Record, reason: str) -> bool:
        """Put aside a record that the server refuses; return whether there was room for it."""
        line = to_line({"reason": reason, "record": record})
        with (self.folder / "refused.jsonl").open("ab") as out:
            fits = out.tell() + len(line) <= REFUSED
            if fits:
                out.write(line)
        return fits

    def retry_refused(self) -> None:
        """Queue refused records again."""
        aside = self.folder / "refused.jsonl"
        if aside.exists():
            with aside.open("rb") as lines:
                found = [(parse_line(line) or {}).get("record") for line in lines]
            self.append([record for record in found if isinstance(record, dict)])
            aside.unlink()

    def hold(self, name: str, content: bytes | Path, *, always: bool = False) -> str:
        """Keep a file, or a folder, under its own name until it is sent; return its path inside the spool.

        Args:
            name: Of the file.
            content: Of the file, or where it is.
            always: However much waits already.

        Raises:
            SpoolFullError: As much waits for the server as may.
            OSError: It cannot be written.
        """
        size = len(content) if isinstance(content, bytes) else _bytes_of(content)
        with self._mutex:
            if not always and self._held + size > FILES:
                raise SpoolFullError(
                    f"{self._files} holds {self._held >> 20} MiB that MLflow has not taken, and may hold "
                    f"{FILES >> 20}"
                )
            self._held += size
        target = self._files / uuid.uuid4().hex / name
        self._copy(content, target)
        return str(target.relative_to(self.folder))

    def _copy(self, content: bytes | Path, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            target.write_bytes(content)
        elif content.is_dir():
            for file in (path for path in content.rglob("*") if path.is_file()):
                self._copy(file, target / file.relative_to(content))
        elif content.stat().st_size < COPIED_BELOW:
            shutil.copyfile(content, target)
        else:
            try:
                target.hardlink_to(content)
            except OSError:
                shutil.copyfile(content, target)


def _bytes_of(path: Path) -> int:
    """Return the bytes of a file, or of all files in a folder; 0 where there is neither."""
    with contextlib.suppress(OSError):
        if not path.is_dir():
            return path.stat().st_size
        return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return 0


def _replace(path: Path, text: str) -> None:
    beside = path.with_suffix(".new")
    beside.write_text(text)
    beside.replace(path)
