"""Doing one thing at a time behind a training's back, and telling how it went."""

import threading
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from qdet.checkpoint.pieces import Piece


class Background:
    """Runs one task on a thread of its own."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None
        self._started = 0.0

    @property
    def busy(self) -> bool:
        """True while a task runs."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def seconds(self) -> float:
        """How long ago the last task was started."""
        return time.monotonic() - self._started

    @property
    def error(self) -> Exception | None:
        """What the last task failed by, until it is forgotten."""
        return self._error

    def forget(self) -> None:
        """Take note of an error."""
        self._error = None

    def start(self, task: Callable[[], object]) -> None:
        """Start `task`; the one before has ended."""
        if self.busy:
            raise RuntimeError("the task before is still running")
        self._error, self._started = None, time.monotonic()
        # A thread that Python does not wait for at its end: a store that hangs must not keep a process.
        self._thread = threading.Thread(target=self._run, args=(task,), name="checkpoint", daemon=True)
        self._thread.start()

    def wait(self, seconds: float) -> bool:
        """Wait for the task to end; False if it has not."""
        if self._thread is not None:
            self._thread.join(seconds)
        return not self.busy

    def _run(self, task: Callable[[], object]) -> None:
        try:
            task()
        except Exception as error:
            self._error = error


class HostCopy:
    """Memory for one copy of a rank's pieces, kept from checkpoint to checkpoint.

    Fresh memory would cost more than the copy itself; for a GPU it is pinned, so that all copies run at once.
    """

    def __init__(self) -> None:
        self._memory: dict[str, Tensor] = {}

    def take(self, pieces: Sequence[Piece]) -> list[Piece]:
        """Return copies that stay as they are until the next call."""
        self._memory = {piece.key: self._room(piece) for piece in pieces}
        for piece in pieces:
            self._memory[piece.key].copy_(piece.values, non_blocking=True)
        if any(piece.values.is_cuda for piece in pieces):
            torch.cuda.synchronize()
        return [Piece(piece.name, piece.start, self._memory[piece.key]) for piece in pieces]

    def _room(self, piece: Piece) -> Tensor:
        room, values = self._memory.get(piece.key), piece.values
        if room is not None and room.shape == values.shape and room.dtype == values.dtype:
            return room
        return torch.empty_like(values, device="cpu", pin_memory=values.is_cuda)
