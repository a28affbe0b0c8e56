"""One task on a background thread, and memory for what it writes."""

import threading
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from qdet.checkpoint.pieces import Piece


class BackgroundTask:
    """Runs one task at a time on a thread and keeps its error."""

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
        """Seconds since the last task was started."""
        return time.monotonic() - self._started

    @property
    def error(self) -> Exception | None:
        """The error of the last task, until it is cleared."""
        return self._error

    def clear_error(self) -> None:
        """Forget the error of the last task."""
        self._error = None

    def start(self, task: Callable[[], object]) -> None:
        """Start `task`; the previous one must have ended."""
        if self.busy:
            raise RuntimeError("the previous task is still running")
        self._error, self._started = None, time.monotonic()
        # A daemon: a store that hangs must not keep the process from exiting.
        self._thread = threading.Thread(target=self._run, args=(task,), name="checkpoint", daemon=True)
        self._thread.start()

    def wait(self, seconds: float) -> bool:
        """Wait up to `seconds` for the task to end; False if it still runs."""
        if self._thread is not None:
            self._thread.join(seconds)
        return not self.busy

    def _run(self, task: Callable[[], object]) -> None:
        try:
            task()
        except Exception as error:
            self._error = error


class HostCopy:
    """Memory for a copy of a rank's pieces, reused by every checkpoint.

    Allocating it would cost more than the copy. For a GPU it is pinned, so that copies are asynchronous.
    """

    def __init__(self) -> None:
        self._memory: dict[str, Tensor] = {}

    def take(self, pieces: Sequence[Piece]) -> list[Piece]:
        """Return copies, which are valid until the next call."""
        self._memory = {piece.key: self._buffer(piece) for piece in pieces}
        for piece in pieces:
            self._memory[piece.key].copy_(piece.values, non_blocking=True)
        if any(piece.values.is_cuda for piece in pieces):
            torch.cuda.synchronize()
        return [Piece(piece.name, piece.start, self._memory[piece.key]) for piece in pieces]

    def _buffer(self, piece: Piece) -> Tensor:
        buffer, values = self._memory.get(piece.key), piece.values
        if buffer is not None and buffer.shape == values.shape and buffer.dtype == values.dtype:
            return buffer
        return torch.empty_like(values, device="cpu", pin_memory=values.is_cuda)
