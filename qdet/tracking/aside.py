"""Other people's code beside a training: on a thread of its own, where it can neither stop nor stall it.

What it raises, how long it takes and how much it prints is reported or bounded here. It shares the process,
so pure Python that computes for long still takes time from the training's own.
"""

import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

LONGEST_QUEUE = 256
"""Calls that may wait; beyond it those that may be dropped are."""
SLOW = 60.0
"""Seconds after which a call in progress is said to be slow."""
OUTPUT, PER = 64 * 1024, 60.0
"""Characters that one thread may print in so many seconds."""


class Aside:
    """Calls functions one after another on a thread.

    Args:
        name: What the calls belong to, for messages.
        say: Takes messages.
    """

    def __init__(
        self, name: str, *, say: Callable[[str], None] = lambda text: print(text, flush=True)
    ) -> None:
        self.name, self.failures, self.dropped = name, 0, 0
        self._say = say
        self._waiting: deque[tuple[str, Callable[[], Any]] | None] = deque()
        self._changed = threading.Condition()
        self._current: tuple[str, float] | None = None
        self._said: set[str] = set()
        self._thread = threading.Thread(target=self._run, daemon=True, name=f"qdet-aside-{name}")
        self._thread.start()

    def call(self, what: str, function: Callable[[], Any], *, droppable: bool = False) -> None:
        """Queue a call and return at once; a droppable one is dropped while too many wait."""
        with self._changed:
            full = len(self._waiting) >= LONGEST_QUEUE
            if full and droppable:
                self.dropped += 1
            else:
                self._waiting.append((what, function))
                self._changed.notify()
            busy = self._current
        if busy and time.monotonic() - busy[1] > SLOW:
            self._say_once(f"slow {busy[0]}", f"{busy[0]} has been running for over {SLOW:.0f} s")

    def close(self, wait: float | int = 15) -> bool:
        """Finish what waits within `wait` seconds; return whether it did. Calls left then are dropped."""
        with self._changed:
            self._waiting.append(None)
            self._changed.notify()
        self._thread.join(wait)
        if self._thread.is_alive():
            with self._changed:
                left = sum(call is not None for call in self._waiting)
                running = self._current[0] if self._current else "nothing"
                self._waiting.clear()
                self._waiting.append(None)
            self._tell(f"{running} did not return within {wait:g} s: it and {left} more calls are dropped")
            return False
        if self.dropped:
            self._tell(f"{self.dropped} calls were dropped, since it was slower than the training")
        return True

    def _run(self) -> None:
        with limit_output(self.name):
            while (call := self._next()) is not None:
                what, function = call
                try:
                    function()
                except BaseException as error:
                    self.failures += 1
                    self._say_once(what, f"{what} raised {_describe(error)}; training continues")
                with self._changed:
                    self._current = None

    def _next(self) -> tuple[str, Callable[[], Any]] | None:
        with self._changed:
            while not self._waiting:
                self._changed.wait()
            call = self._waiting.popleft()
            self._current = call and (call[0], time.monotonic())
            return call

    def _say_once(self, key: str, text: str) -> None:
        if key not in self._said:
            self._said.add(key)
            self._tell(text)

    def _tell(self, text: str) -> None:
        self._say(f"{self.name}: {text}")


def _describe(error: BaseException) -> str:
    """Return the error with the line that raised it; its whole stack would be longer than most terminals."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {str(error)[:500]}{where}"


@contextmanager
def limit_output(name: str) -> Iterator[None]:
    """Let this thread print `OUTPUT` characters in `PER` seconds within the block; others print as before."""
    for stream in ("stdout", "stderr"):
        if not isinstance(getattr(sys, stream), _Limited):
            setattr(sys, stream, _Limited(getattr(sys, stream)))
    _budgets[threading.get_ident()] = _Budget(name)
    try:
        yield
    finally:
        del _budgets[threading.get_ident()]


class _Budget:
    def __init__(self, name: str) -> None:
        self.name, self.since, self.spent = name, time.monotonic(), 0

    def take(self, text: str) -> str:
        """Return what may be printed of `text`."""
        now = time.monotonic()
        if now - self.since > PER:
            self.since, self.spent = now, 0
        left = OUTPUT - self.spent
        self.spent += len(text)
        if left >= len(text):
            return text
        if left <= 0:
            return ""
        return f"{text[:left]}\n{self.name}: prints too much; the rest of this minute is dropped\n"


_budgets: dict[int, _Budget] = {}


class _Limited:
    """A text stream that holds some threads to a budget."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        budget = _budgets.get(threading.get_ident())
        self._stream.write(text if budget is None else budget.take(text))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
