"""Output that never makes a training wait or fail: its reader may have stopped reading, or be gone."""

import io
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TypeGuard

WAITING = 2**20
"""Bytes that wait for a slow reader; further ones are dropped."""
LEAVING = 5.0
"""Seconds that a process that ends gives a slow reader."""


class DetachedOutput(io.TextIOBase):
    """Text for a pipe or file, written by a thread; what nobody reads is dropped.

    Args:
        under: The stream that it replaces. Its descriptor is written to directly: otherwise a thread that
            waits for the reader would hold the lock of its buffer when the interpreter ends.
    """

    def __init__(self, under: io.TextIOWrapper) -> None:
        self._under, self._descriptor, self._process = under, under.fileno(), os.getpid()
        self._encoding = under.encoding or "utf-8"
        self._waiting: deque[bytes] = deque()
        self._size, self._dropped, self._gone, self._writing = 0, 0, False, False
        self._changed = threading.Condition(threading.RLock())  # a signal handler may print, too
        self._closing = False
        self._thread = threading.Thread(target=self._write_all, name="qdet-output", daemon=True)
        self._thread.start()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """That of the stream that it replaces."""
        return self._encoding

    def write(self, text: str, /) -> int:
        """Take text; never waits, and never fails because of the reader."""
        data = text.encode(self._encoding, errors="backslashreplace")
        if (
            self._closing or os.getpid() != self._process
        ):  # no thread: it has ended, or this is a forked child
            with suppress(OSError):
                os.write(self._descriptor, data)
            return len(text)
        with self._changed:
            if self._gone or self._size + len(data) > WAITING:
                self._dropped += len(data)
            else:
                if self._dropped:
                    data = f"[{self._dropped} bytes of output were not read in time]\n".encode() + data
                    self._dropped = 0
                self._waiting.append(data)
                self._size += len(data)
                self._changed.notify_all()
        return len(text)

    def flush(self) -> None:
        """Do nothing: the thread writes at once."""

    def writable(self) -> bool:
        """Return True."""
        return True

    def isatty(self) -> bool:
        """Whether the stream that it replaces is a terminal."""
        return self._under.isatty()

    def fileno(self) -> int:
        """Return the descriptor of the stream that it replaces."""
        return self._descriptor

    @property
    def gone(self) -> bool:
        """Whether the reader has closed the pipe."""
        return self._gone

    def leave(self, seconds: float = LEAVING) -> None:
        """Give the reader some time for what is waiting; the thread ends after that."""
        until = time.monotonic() + seconds
        with self._changed:
            self._closing = True
            self._changed.notify_all()
            while (self._waiting or self._writing) and (left := until - time.monotonic()) > 0:
                self._changed.wait(left)
            if self._waiting or self._writing:
                _discard(self._descriptor)  # the process ends; what it still says must not keep it

    def _write_all(self) -> None:
        while True:
            with self._changed:
                while not self._waiting:
                    if self._closing:
                        return
                    self._changed.wait()
                data = b"".join(self._waiting)
                self._waiting.clear()
                self._writing = True
            self._write(data)
            with self._changed:
                self._size -= len(data)
                self._writing = False
                self._changed.notify_all()

    def _write(self, data: bytes) -> None:
        try:
            while data and not self._gone:
                data = data[os.write(self._descriptor, data) :]
        except OSError:
            self._gone = True
            _discard(self._descriptor)


@contextmanager
def detached_output() -> Iterator[None]:
    """Replace stdout and stderr inside the block, where they are pipes or files, by ones that never wait."""
    before, detached = (sys.stdout, sys.stderr), []
    for name, stream in zip(("stdout", "stderr"), before, strict=True):
        if _can_be_detached(stream):
            stream.flush()
            detached.append(DetachedOutput(stream))
            setattr(sys, name, detached[-1])
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
        for stream in detached:
            stream.leave()


def _can_be_detached(stream: object) -> TypeGuard[io.TextIOWrapper]:
    """Whether a stream is written to a pipe or file; a terminal is read as long as it is there."""
    try:
        return isinstance(stream, io.TextIOWrapper) and stream.fileno() >= 0 and not stream.isatty()
    except (OSError, ValueError):
        return False


def _discard(descriptor: int) -> None:
    """Lead a descriptor whose reader has gone to nowhere, for the flush at exit and for C code."""
    with suppress(OSError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, descriptor)
        os.close(nowhere)
