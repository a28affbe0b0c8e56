"""Wait for a blocking call while signals still interrupt the wait."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from qdet.launching.graceful_stop import StopFlag

T = TypeVar("T")


@dataclass(frozen=True)
class GracefulStop:
    """How to stop a blocking call from outside."""

    requested: StopFlag
    """Whether it should stop."""
    request: Callable[[], None]
    """Asks the call to stop; called once."""
    grace: float
    """Seconds the call then has to return."""


def call_interruptibly(call: Callable[[], T], stop: GracefulStop | None = None) -> T:
    """Return what `call` returns; it runs in another thread while this one waits for signals.

    Ray's waits do not end on a signal, and in the main thread Ray Train handles Ctrl-C itself and exits with
    code 0. An exception raised by a signal abandons `call`, whose thread ends with the process.

    Raises:
        SystemExit: `call` was asked to stop and did not return within the grace period.
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
        if stop is not None and stop.requested() and deadline is None:
            stop.request()
            deadline = time.monotonic() + stop.grace
        if deadline is not None and time.monotonic() > deadline:
            raise SystemExit(stop.requested.exit_code if stop else None)
    if raised:
        raise raised[0]
    return returned[0]
