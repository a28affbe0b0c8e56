"""Asking a run to leave: SIGTERM to whoever started it becomes a checkpoint, and then the end.

Schedulers send SIGTERM half a minute before they kill (Slurm, Kubernetes), `ray job stop` some seconds. A
process without workers of its own notes the signal and trains on to the end of the step. A driver on Ray
tells the workers through a small actor, which rank 0 asks from time to time.
"""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

GRACE = 60.0
"""Seconds that a driver waits for its workers' last checkpoint; most schedulers kill sooner."""
CODE = 128 + signal.SIGTERM
"""Exit code of who left because it was asked to."""
_POLL = 0.5


class Request:
    """Whether somebody asked."""

    def __init__(self) -> None:
        self._asked = threading.Event()

    def __call__(self) -> bool:
        """Whether somebody did."""
        return self._asked.is_set()

    def ask(self) -> None:
        """Ask."""
        self._asked.set()


@contextmanager
def on_sigterm() -> Iterator[Request]:
    """Note a first SIGTERM inside of the block; a second one ends the process at once.

    Only a process's main thread can; in another one nothing is ever asked.
    """
    request = Request()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def note(number: int, _: FrameType | None) -> None:
        if request():
            raise SystemExit(128 + number)
        request.ask()

    before = signal.signal(signal.SIGTERM, note)
    try:
        yield request
    finally:
        signal.signal(signal.SIGTERM, before)


class Messenger:
    """Brings a driver's request to the workers of its run, in the same Ray job."""

    def __init__(self, run: str) -> None:
        import ray

        self._actor: Any = ray.remote(num_cpus=0)(_Board).options(name=_name(run)).remote()

    def ask(self) -> None:
        """Ask the workers to leave."""
        self._actor.ask.remote()


def request_of_the_driver(run: str) -> Request:
    """Return what the driver of this worker's run asks; looks twice a second, on a thread of its own."""
    request = Request()
    threading.Thread(target=_look, args=(run, request), daemon=True, name="qdet-leaving").start()
    return request


class _Board:
    """The actor: a flag."""

    def __init__(self) -> None:
        self._asked = False

    def ask(self) -> None:
        """Raise it."""
        self._asked = True

    def asked(self) -> bool:
        """Whether it is raised."""
        return self._asked


def _look(run: str, request: Request) -> None:
    import ray

    try:
        board = ray.get_actor(_name(run))
        while not ray.get(board.asked.remote()):
            time.sleep(_POLL)
    except Exception:  # no driver with a board, or its cluster is going: nothing to hear any more
        return
    request.ask()


def _name(run: str) -> str:
    return f"qdet-leaving-{run}"
