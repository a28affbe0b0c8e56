"""Graceful stop: Ctrl-C or SIGTERM at the process that was launched becomes a checkpoint and a clean exit.

Schedulers send SIGTERM half a minute before they kill (Slurm, Kubernetes), `ray job stop` some seconds. A
process without workers notes the signal and trains to the end of the step. A driver on Ray passes it to the
workers through a small actor that rank 0 polls.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from qdet.launching.exit_status import Exit

GRACE = 60.0
"""Seconds that a driver waits for its workers' last checkpoint; most schedulers kill sooner."""
STOPPING = "stopping after this step, with a checkpoint; Ctrl-C again stops at once, without"
_POLL = 0.5
_CLOSING = 5.0  # seconds for a poll to be answered


class StopFlag:
    """Whether this process has been asked to stop; calling it returns that. Safe between threads."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self.exit_code: int = Exit.STOPPED
        """Exit code of a run that is stopped now, which says by what signal."""

    def __call__(self) -> bool:
        """Return whether a stop is requested."""
        return self._event.is_set()

    def set(self) -> None:
        """Request the stop."""
        self._event.set()


@contextmanager
def catch_signals(*, announce: bool = True, abandoned: str = "") -> Iterator[StopFlag]:
    """Yield a flag that the first Ctrl-C or SIGTERM inside the block sets; a second ends the process at once.

    Only a process's main thread receives signals: in any other thread the flag stays unset. torchrun passes
    both signals on to its processes, a second one too.

    Args:
        announce: Whether to say what Ctrl-C does; of several processes one does.
        abandoned: What to say where the block is left without the checkpoint that was asked for.
    """
    flag = StopFlag()
    if threading.current_thread() is not threading.main_thread():
        yield flag
        return

    def handle(number: int, _: FrameType | None) -> None:
        if flag():
            raise SystemExit(128 + number)
        flag.exit_code = 128 + number
        flag.set()
        if announce and number == signal.SIGINT:
            # In a thread: the signal may have interrupted a line being printed.
            threading.Thread(target=print, args=(STOPPING,), kwargs={"flush": True}, daemon=True).start()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield flag
    except SystemExit:
        if abandoned:
            print(abandoned, flush=True)
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class WorkerStop:
    """The driver's end: stops the workers of its run, in the same Ray job."""

    def __init__(self, run: str) -> None:
        import ray

        self._actor: Any = ray.remote(num_cpus=0)(_FlagActor).options(name=_actor_name(run)).remote()

    def request(self) -> None:
        """Ask the workers to stop after a checkpoint."""
        self._actor.set.remote()


@contextmanager
def watch_driver(run: str) -> Iterator[StopFlag]:
    """Yield the workers' end: a flag set once the driver requests a stop; a thread polls twice a second."""
    flag, closed = StopFlag(), threading.Event()
    thread = threading.Thread(target=_poll, args=(run, flag, closed), daemon=True, name="qdet-graceful-stop")
    thread.start()
    try:
        yield flag
    finally:
        closed.set()
        thread.join(_CLOSING)


class _FlagActor:
    """A flag that lives in a Ray actor."""

    def __init__(self) -> None:
        self._set = False

    def set(self) -> None:
        self._set = True

    def is_set(self) -> bool:
        return self._set


def _poll(run: str, flag: StopFlag, closed: threading.Event) -> None:
    import ray

    try:
        actor = ray.get_actor(_actor_name(run))
        while not ray.get(actor.is_set.remote()):
            if closed.wait(_POLL):
                return
    except Exception:  # the driver has no actor (a sweep's trial), or the cluster is shutting down
        return
    flag.set()


def _actor_name(run: str) -> str:
    return f"qdet-graceful-stop-{run}"
