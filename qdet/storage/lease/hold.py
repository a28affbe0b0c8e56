"""Holding a lease: a thread renews it and notices when another process has taken over."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from qdet.errors import ConfigError
from qdet.storage.folder import Folder
from qdet.storage.lease.acquire import SECONDS, Waiting, acquire
from qdet.storage.lease.owner import Owner
from qdet.storage.lease.terms import LONGEST, Fence, Terms

LASTS = "QDET_LEASE_S"
"""Environment variable: seconds without a renewal after which this process's leases end."""
RENEWALS = 5
"""Renewals in that time."""


class Hold:
    """A lease that is held. Safe between threads."""

    def __init__(self, fence: Fence) -> None:
        self.fence = fence
        self._lost = threading.Event()
        self._calls: list[Callable[[], None]] = []
        self._lock = threading.Lock()

    @property
    def number(self) -> int:
        """Its term."""
        return self.fence.number

    @property
    def lost(self) -> bool:
        """Whether another process is known to have taken over."""
        return self._lost.is_set()

    def when_lost(self, call: Callable[[], None]) -> None:
        """Have `call` called, on any thread, once another process has taken over."""
        with self._lock:
            self._calls.append(call)
        if self.lost:
            call()

    def has_lost(self) -> bool:
        """Look whether another process has taken over; False where the store does not answer."""
        with suppress(OSError):
            return self.lost or not self.fence.holds()
        return False

    def check(self) -> None:
        """Raise unless the lease still holds.

        Raises:
            LeaseError: Another process has taken over.
        """
        self.fence.check()

    def renew(self, count: int, at: float) -> bool:
        """Renew the term, unless it is lost; return whether it still holds."""
        if not self.fence.holds():
            self.lose()
            return False
        self.fence.terms.renew(self.number, count, at)
        return True

    def lose(self) -> None:
        """Call those who wait for it: another process has taken over."""
        with self._lock:
            first, calls = not self.lost, list(self._calls)
            self._lost.set()
        for call in calls if first else []:
            call()


@contextmanager
def hold(protected: Folder, *, take_over: bool = False, waiting: Waiting | None = None) -> Iterator[Hold]:
    """Hold the lease of a folder within the block, which begins once the lease is free.

    Args:
        protected: What only this process may write.
        take_over: Do not wait for the holder to end.
        waiting: Clocks and messages.

    Raises:
        LeaseError: Another process holds it and renews it.
        ConfigError: The environment's seconds are no number.
    """
    seconds = lease_seconds()
    fence = acquire(Terms(protected), Owner.here(), seconds=seconds, take_over=take_over, waiting=waiting)
    held, ended = Hold(fence), threading.Event()
    thread = threading.Thread(
        target=_renew, args=(held, ended, seconds / RENEWALS), daemon=True, name="qdet-lease"
    )
    thread.start()
    try:
        yield held
    finally:
        ended.set()
        thread.join(seconds)
        with suppress(OSError):
            if not held.lost and fence.holds():
                fence.terms.release(fence.number)


def lease_seconds() -> float:
    """Return how long leases of this process last without a renewal.

    Raises:
        ConfigError: The environment's value is no number above 0, or more than a day.
    """
    given = os.environ.get(LASTS, "")
    try:
        seconds = float(given or SECONDS)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= LONGEST:
        raise ConfigError(f"{LASTS}={given}: not a number of seconds above 0 and up to a day")
    return seconds


def _renew(held: Hold, ended: threading.Event, every: float) -> None:
    """Renew until the block ends or the lease is lost; a store that does not answer is asked again."""
    count, failing = 0, False
    while True:
        try:
            if not held.renew(count, time.time()):
                return
            failing = False
        except OSError as error:
            if not failing:
                print(f"the lease of {held.fence.terms.protected} is not renewed: {error}", flush=True)
            failing = True
        count += 1
        if ended.wait(every):
            return
