"""A thread that ends its worker when it hangs, after printing what it was doing and all stacks.

A worker that hangs stops all others: they wait for it in a collective and cannot tell for which. So each
worker watches itself. The training loop tells its `Watchdog` what it is about to do (`now`) and that a step
is done (`beat`). Halfway to the limit the worker prints where it is; at the limit it exits with code 75, and
its launcher starts it again.
"""

import faulthandler
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

EXIT_CODE = 75
"""EX_TEMPFAIL of sysexits.h: a retry may succeed."""
FIRST_BEAT = 600.0
"""Seconds added to the limit before the first step, which tunes kernels and reads cold files."""
CLOSING = 5.0
"""Seconds to wait for the thread to end."""
WRITING = 5.0
"""Seconds to wait for a report to be written: nobody may read stderr any more."""
RECENT = 50
"""Beats of which the slowest counts."""
_STDERR = 2  # the descriptor itself: Ray and pytest replace sys.stderr by objects without one
_DEBUGGERS = frozenset({"bdb", "pdb", "ray.util.rpdb", "IPython.core.debugger"})


class Watchdog:
    """Watches this worker inside a `with`.

    Args:
        rank: Rank of the worker, for messages.
        limit: Seconds beyond the slowest recent step that the next may take; 0 never ends the worker.
        end: Ends the worker.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        *,
        rank: int,
        limit: int | float,
        end: Callable[[], None] = lambda: os._exit(EXIT_CODE),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.rank, self.limit = rank, limit
        self._end, self._clock = end, clock
        self._recent: deque[float] = deque(maxlen=RECENT)
        self._doing, self._since = "starting", clock()
        self._last_beat = self._since
        self._off = 0  # how many `off` blocks are open
        self._warned = False
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="qdet-watchdog", daemon=True)

    def __enter__(self) -> "Watchdog":
        self._restart(self._clock())
        if self.limit > 0:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join(CLOSING)

    def now(self, operation: str) -> None:
        """Note what the worker is about to do."""
        self._doing, self._since = operation, self._clock()

    def beat(self) -> None:
        """Note that a step, or a batch of an evaluation, is done."""
        now = self._clock()
        self._recent.append(now - self._last_beat)
        self._restart(now)

    @contextmanager
    def off(self, operation: str) -> Iterator[None]:
        """Do not watch inside a `with`: for what may take long and has its own timeout."""
        self.now(operation)
        self._off += 1
        try:
            yield
        finally:
            self._off -= 1
            self._restart(self._clock())

    @property
    def allowed(self) -> float:
        """Seconds that may pass from one beat to the next."""
        return self.limit + (max(self._recent) if self._recent else FIRST_BEAT)

    def look(self) -> None:
        """Warn or end the worker if it is time to; the thread calls this every second."""
        still = self._clock() - self._last_beat
        if self._off or debugging():
            return
        if still >= self.allowed:
            self._report(
                f"{self._describe(still)}. It ends now with exit code {EXIT_CODE}, to be started again; "
                "--train.hang-after sets the limit, 0 turns it off"
            )
            self._end()
        elif still >= self.allowed - self.limit / 2 and not self._warned:
            self._warned = True
            self._report(
                f"{self._describe(still)}. It ends in {self.allowed - still:.0f} s if nothing changes"
            )

    def _describe(self, still: float) -> str:
        doing, since = self._doing, min(self._clock() - self._since, still)
        return (
            f"worker {self.rank} on host {socket.gethostname()}: no step for {still:.0f} s, the last "
            f"{since:.0f} s of it in: {doing}"
        )

    def _restart(self, now: float) -> None:
        self._last_beat, self._warned = now, False

    def _watch(self) -> None:
        every = min(1.0, self.limit / 10)
        while not self._closed.wait(every):
            self.look()
            if debugging():
                _call_off_timers()
            else:
                # This thread cannot run while a C function keeps the interpreter's lock; these timers can.
                faulthandler.dump_traceback_later(self.allowed + self.limit, exit=True, file=_STDERR)
                _end_by_alarm(float(self.allowed + self.limit + WRITING))
        _call_off_timers()

    @staticmethod
    def _report(message: str) -> None:
        """Write what the worker does to stderr, on a thread: a full pipe must not keep the worker alive."""
        text = f"{message}\nStacks of all its threads:\n{_list_stacks()}".encode()
        thread = threading.Thread(target=_write, args=(text,), name="qdet-watchdog-report", daemon=True)
        thread.start()
        thread.join(WRITING)


def _list_stacks() -> str:
    """Return the stacks of all threads; faulthandler writes to files, holding the interpreter's lock."""
    try:
        with tempfile.TemporaryFile() as file:
            faulthandler.dump_traceback(file=file, all_threads=True)
            file.seek(0)
            return file.read().decode(errors="replace")
    except OSError as error:
        return f"cannot be listed: {error}\n"


def _write(text: bytes) -> None:
    with suppress(OSError):  # closed
        while text:
            text = text[os.write(_STDERR, text) :]


def _call_off_timers() -> None:
    faulthandler.cancel_dump_traceback_later()
    _end_by_alarm(0.0)


def _end_by_alarm(seconds: float) -> None:
    """Have the kernel end this process by SIGALRM, unless that is put off again; 0 calls it off.

    A stack that is written to a full pipe would keep faulthandler's timer from ending it.
    """
    if hasattr(signal, "SIGALRM") and signal.getsignal(signal.SIGALRM) == signal.SIG_DFL:
        signal.setitimer(signal.ITIMER_REAL, seconds)


def debugging() -> bool:
    """True while the process is in a debugger, where it may stand still."""
    if "pydevd" in sys.modules or "debugpy" in sys.modules:
        return True
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    while frame is not None:
        if frame.f_globals.get("__name__") in _DEBUGGERS:
            return True
        frame = frame.f_back
    return False
