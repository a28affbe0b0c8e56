"""Waiting that signals end at once."""

import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def call_interruptibly(call: Callable[[], T]) -> T:
    """Return what `call` returns, running it in a thread of its own while this one waits for signals.

    Ray's waits do not end for a signal, and Ray Train takes Ctrl-C over and then leaves with exit code 0, but
    only in the main thread. A signal's exception leaves `call` behind; it ends with the process.
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
    while thread.is_alive():
        thread.join(0.2)
    if raised:
        raise raised[0]
    return returned[0]
