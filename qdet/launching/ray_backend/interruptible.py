"""Waiting that signals end at once."""

import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Ask:
    """How what is waited for can be asked to end by itself."""

    asked: Callable[[], bool]
    """Whether it should."""
    ask: Callable[[], None]
    """Asks it."""
    grace: float
    """Seconds that it has from then on."""


def call_interruptibly(call: Callable[[], T], ask: Ask | None = None) -> T:
    """Return what `call` returns, running it in a thread of its own while this one waits for signals.

    Ray's waits do not end for a signal, and Ray Train takes Ctrl-C over and then leaves with exit code 0, but
    only in the main thread. A signal's exception leaves `call` behind; it ends with the process.

    Raises:
        SystemExit: `call` was asked to end and did not in time.
    """
    returned: list[T] = []
    raised: list[BaseException] = []

    def run() -> None:
        try:
            returned.append(call())
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    deadline: float | None = None
    while thread.is_alive():
        thread.join(0.2)
        if ask is not None and ask.asked() and deadline is None:
            ask.ask()
            deadline = time.monotonic() + ask.grace
        if deadline is not None and time.monotonic() > deadline:
            raise SystemExit(128 + signal.SIGTERM)
    if raised:
        raise raised[0]
    return returned[0]
