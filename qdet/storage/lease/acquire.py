"""Waiting for a lease: until it is free, its holder is seen to be gone, or renews it no more."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from qdet.errors import LeaseError
from qdet.storage.lease.owner import Owner
from qdet.storage.lease.terms import Fence, Terms, View

SECONDS = 40.0
"""Seconds without a renewal after which a lease ends."""
POLL, CONTESTED = 0.5, 0.2
"""Seconds between looks, and most seconds before another try where several claim at once."""
FORGOTTEN = 3600.0
"""Seconds since the last renewal, by the holder's clock, that need no watching: more than clocks differ."""


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """How a process waits for a lease; tests have a clock of their own."""

    say: Callable[[str], None] = lambda line: print(line, flush=True)
    clock: Callable[[], float] = time.monotonic
    now: Callable[[], float] = time.time
    sleep: Callable[[float], None] = time.sleep
    is_gone: Callable[[Owner], bool] = Owner.is_gone


def acquire(
    terms: Terms,
    owner: Owner,
    *,
    seconds: float = SECONDS,
    take_over: bool = False,
    waiting: Waiting | None = None,
) -> Fence:
    """Claim the next term, once the one before it has ended.

    Args:
        terms: Of what is to be written.
        owner: This process.
        seconds: How long the term is to last without a renewal.
        take_over: Do not wait.
        waiting: Clocks and messages.

    Raises:
        LeaseError: The holder still renews its term.
        OSError: The store cannot be read or written.
    """
    waiting = waiting or Waiting()
    watch = _Watch(terms, waiting)
    while True:
        view = terms.view()
        if take_over or watch.has_ended(view):
            if terms.claim(view.number + 1, owner, seconds):
                return Fence(terms, view.number + 1)
            waiting.sleep(random.uniform(0.1, 1.0) * CONTESTED)
        else:
            waiting.sleep(POLL)


class _Watch:
    """Watches the highest term until it has ended."""

    def __init__(self, terms: Terms, waiting: Waiting) -> None:
        self._terms, self._waiting = terms, waiting
        self._number, self._since, self._beat = 0, 0.0, object()

    def has_ended(self, view: View) -> bool:
        """Whether the highest term has ended; LeaseError where it was renewed since the first look."""
        if view.number == 0 or view.released:
            return True
        owner, seconds = self._terms.holder(view.number)
        if owner is not None and self._waiting.is_gone(owner):
            self._waiting.say(f"{self._terms.protected}: {owner} is gone; taking over from it")
            return True
        lasts, beat = SECONDS if seconds is None else seconds, self._terms.beat(view.number)
        if view.number != self._number:
            self._number, self._since, self._beat = view.number, self._waiting.clock(), beat
            at = beat.get("at")
            if isinstance(at, int | float) and self._waiting.now() - at > lasts + FORGOTTEN:
                return True
            self._waiting.say(self._announce(owner, lasts))
        if beat != self._beat:
            raise LeaseError(
                f"{self._terms.protected} is being written by {owner or 'another process'}, which still "
                "renews its lease; stop that one first, or take over with --store.take-over"
            )
        return self._waiting.clock() - self._since >= lasts

    def _announce(self, owner: Owner | None, lasts: float) -> str:
        return (
            f"{self._terms.protected} was last written by {owner or 'another process'}: waiting up to "
            f"{lasts:.0f} s to see whether that has ended"
        )
