"""What chaos asks workers for, by a file: the first that can do it takes the request."""

import json
import os
import threading
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Requests:
    """Requests in a file, and beside it a log of those that were answered."""

    file: Path

    def put(self, kind: str, times: int = 1) -> None:
        """Ask for something, so many times; what was asked before and is not done is dropped."""
        self._write({"kind": kind, "times": times})

    def claim(self, kinds: Collection[str]) -> str | None:
        """Take one request of these kinds, and log it; None where there is none, or another was first."""
        if self._read(self.file).get("kind") not in kinds:
            return None
        taken = self.file.with_suffix(f".{os.getpid()}-{threading.get_ident()}")
        with suppress(FileNotFoundError):
            self.file.rename(taken)
            asked = self._read(taken)
            if asked["times"] > 1:
                self._write(asked | {"times": asked["times"] - 1})
            taken.unlink()
            with self.file.with_suffix(".log").open("a") as log:
                log.write(f"{asked['kind']}\n")
            return str(asked["kind"])
        return None

    def answered(self) -> int:
        """Return how many workers have done what was asked."""
        log = self.file.with_suffix(".log")
        return len(log.read_text().splitlines()) if log.exists() else 0

    def _write(self, asked: dict[str, Any]) -> None:
        """Replace the file atomically: a process that has opened the old one still reads that."""
        new = self.file.with_suffix(f".{os.getpid()}-{threading.get_ident()}.new")
        new.write_text(json.dumps(asked))
        new.replace(self.file)

    @staticmethod
    def _read(file: Path) -> dict[str, Any]:
        with suppress(FileNotFoundError):
            return json.loads(file.read_text())
        return {}
