"""A run's points on local disk until the server has them.

    run.json       the run: server, experiment, name, id once it is known
    points.jsonl   one record per line, only ever appended to
    sent           byte offset up to which the server has the points
    files/         pictures and artifacts not yet sent
    refused.jsonl  records that the server refuses, with its reason

A killed process loses at most what it had not yet written; the next one in the same folder continues.
"""

import contextlib
import fcntl
import json
import os
import shutil
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qdet.storage.parsing import parse_json

Record = dict[str, Any]

COPIED_BELOW = 4 << 20
"""Files under this many bytes are copied, larger ones hard-linked if the file system can."""


class Spool:
    """An append-only file of records with a cursor, owned by one process at a time."""

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
        self._points = self.folder / "points.jsonl"
        self._out = os.open(self._points, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        self._size = os.fstat(self._out).st_size
        if self._size and os.pread(self._out, 1, self._size - 1) != b"\n":
            self._size += os.write(self._out, b"\n")  # completes a line cut off by a kill

    def close(self) -> None:
        """Release the folder."""
        os.close(self._out)
        self._lock.close()

    def about(self) -> dict[str, Any]:
        """Return the content of run.json."""
        with contextlib.suppress(FileNotFoundError, ValueError):
            return parse_json((self.folder / "run.json").read_text())
        return {}

    def describe(self, about: dict[str, Any]) -> None:
        """Write run.json."""
        _replace(self.folder / "run.json", json.dumps(about, indent=1))

    def append(self, records: Sequence[Record]) -> None:
        """Write records durably, or none of them and raise OSError."""
        data = "".join(json.dumps(record) + "\n" for record in records).encode()
        written = 0
        try:
            while written < len(data):
                written += os.write(self._out, data[written:])
        except OSError:
            os.ftruncate(self._out, self._size)
            raise
        self._size += len(data)

    def unsent(self, most: int = 1000) -> list[tuple[Record, int]]:
        """Return the next records, each with the offset at which it ends."""
        found = []
        with self._points.open("rb") as lines:
            end = lines.seek(self.sent())
            for line in lines:
                if len(found) == most or not line.endswith(b"\n"):
                    break
                end += len(line)
                with contextlib.suppress(json.JSONDecodeError, UnicodeDecodeError):
                    found.append((parse_json(line), end))
        return found

    def sent(self) -> int:
        """Offset up to which the server has the points."""
        with contextlib.suppress(FileNotFoundError, ValueError):
            return int((self.folder / "sent").read_text())
        return 0

    def advance(self, record: Record, offset: int, *, refused: bool = False) -> None:
        """Mark all up to `offset`, where `record` ends, as done; delete its file if it was sent."""
        _replace(self.folder / "sent", str(offset))
        if "file" in record and not refused:
            shutil.rmtree((self.folder / record["file"]).parent, ignore_errors=True)

    def refuse(self, record: Record, reason: str) -> None:
        """Put aside a record that the server refuses."""
        with (self.folder / "refused.jsonl").open("a") as out:
            out.write(json.dumps({"reason": reason, "record": record}) + "\n")

    def retry_refused(self) -> None:
        """Queue refused records again."""
        aside = self.folder / "refused.jsonl"
        if aside.exists():
            self.append([parse_json(line)["record"] for line in aside.read_text().splitlines()])
            aside.unlink()

    def hold(self, name: str, content: bytes | Path) -> str:
        """Keep a file, or a folder, under its own name until it is sent; return its path inside the spool."""
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
                os.link(content, target)
            except OSError:
                shutil.copyfile(content, target)


def _replace(path: Path, text: str) -> None:
    beside = path.with_suffix(".new")
    beside.write_text(text)
    beside.replace(path)
