"""Two threads that take logging off the training path: one writes the spool, one sends it.

There are two so that points reach the disk while the network hangs.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable

from qdet.tracking.sender import Sender, reason
from qdet.tracking.spool import Record, Spool
from qdet.tracking.spool.thinning import thin

_log = logging.getLogger(__name__)

Task = Callable[[], Record]
SEND_EVERY = 2.0  # seconds; a request costs about as much for one point as for hundreds
FIRST_RETRY, LONGEST_RETRY = 1.0, 30.0  # seconds
LAST_TRIES = 4  # once training has ended
QUEUED = 100_000
"""Records that wait in memory, while the disk takes none, before they are thinned."""


class Background:
    """Queues records without blocking, and writes and sends them in the background."""

    def __init__(self, spool: Spool, sender: Sender) -> None:
        self._spool, self._sender = spool, sender
        self._queue: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        self._closing, self._written, self._given_up = threading.Event(), threading.Event(), threading.Event()
        self.tried = threading.Event()
        """Set after the server's first answer or failure."""
        self.done = False
        self._dropped, self._lost = 0, False
        self._threads = [
            threading.Thread(target=self._write, daemon=True, name="qdet-tracking-write"),
            threading.Thread(target=self._send, daemon=True, name="qdet-tracking-send"),
        ]
        for thread in self._threads:
            thread.start()

    def put(self, task: Task) -> None:
        """Queue `task`, which builds a record in the background, for logging."""
        if self._queue.qsize() < QUEUED:
            self._queue.put(task)
            return
        if not self._dropped:
            _log.warning("%s hangs: what is logged from now on is dropped", self._spool.folder)
        self._dropped += 1

    def close(self, wait: float | int) -> bool:
        """Write and send the rest, for at most `wait` seconds; return whether the server has all of it."""
        until = time.monotonic() + wait
        self._queue.put(None)
        self._closing.set()
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        self._given_up.set()
        return self.done

    def _write(self) -> None:
        waiting: list[Record] = []
        told, open_ = False, True
        while open_ or (waiting and not self._given_up.is_set()):
            open_ = self._take(waiting, block=open_ and not waiting) and open_
            last = self._closing.is_set()
            try:
                self._spool.append(waiting)
                waiting.clear()
                told = False
            except OSError as error:
                if not told:
                    _log.warning("cannot write %s, keeping points in memory: %s", self._spool.folder, error)
                told = True
                if len(waiting) > QUEUED:
                    waiting, dropped = thin(waiting)
                    _log.warning("memory holds too many points: %d, every second, are dropped", dropped)
                if last:
                    said = "%d records are lost: %s could not be written up to the end"
                    _log.warning(said, len(waiting), self._spool.folder)
                    self._lost = True
                    break
                self._closing.wait(1.0)
        self._written.set()

    def _take(self, waiting: list[Record], *, block: bool) -> bool:
        """Move all queued records to `waiting`; return False once no more will come."""
        while True:
            try:
                task = self._queue.get(block=block)
            except queue.Empty:
                return True
            if task is None:
                return False
            try:
                waiting.append(task())
            except Exception as error:
                _log.warning("cannot log: %s", reason(error))
            block = False

    def _send(self) -> None:
        delay, down, tries = FIRST_RETRY, False, 0
        while not self._given_up.is_set():
            last = self._written.is_set()  # checked before sending, so that nothing can follow
            try:
                self._sender.send()
                self.tried.set()
                if down:
                    _log.warning("MLflow answers again; the points kept meanwhile are sent")
                self._say_dropped()
                if last:
                    self.done = not self._lost
                    return
                delay, down, tries = FIRST_RETRY, False, 0
                self._pause(SEND_EVERY)
            except Exception as error:
                self.tried.set()
                if not down:
                    said = "MLflow takes no points now; training continues and they are kept in %s (%s)"
                    _log.warning(said, self._spool.folder, reason(error))
                down = True
                tries += self._closing.is_set()
                if tries >= LAST_TRIES:
                    return
                self._pause(delay)
                delay = min(2 * delay, LONGEST_RETRY)

    def _say_dropped(self) -> None:
        """Say how many records a disk that hung has cost, once it takes some again."""
        if self._dropped and self._queue.qsize() < QUEUED:
            _log.warning("%d records were dropped while %s hung", self._dropped, self._spool.folder)
            self._dropped = 0

    def _pause(self, seconds: float) -> None:
        """Wait; once training has ended, only a moment after its last points are written."""
        if self._closing.wait(seconds) and self._written.wait(seconds):
            time.sleep(0.2)
