"""What workers print, as the driver shows it: without Ray's prefix, each line once, events on the display.

Ray forwards the files that its processes print into; what is shown here is in them too (`/tmp/ray`), also
when the driver is gone.
"""

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from qdet.launching.display import events
from qdet.training.reporting import Display

QUIET = ("PlacementGroupCleaner",)
"""Processes of Ray Train that say nothing about a training."""
REPEATED_WITHIN = 10.0
"""Seconds within which a line of one worker is not shown again for another."""
_RAY_HANDLER = "ray_print_logs"
_HANDLER = "qdet"


@contextmanager
def forwarded_to(display: Display, take: Callable[[str], bool] = lambda line: False) -> Iterator[None]:
    """Show on `display` what workers print inside the block, in place of Ray's own forwarding.

    After it nothing of theirs is shown: all that processes which are about to end say is that others have.

    Args:
        display: Gets the events in it; all other lines are printed.
        take: Returns whether a line is shown elsewhere.
    """
    from ray._private.ray_logging import global_worker_stdstream_dispatcher as dispatcher

    dispatcher.remove_handler(_RAY_HANDLER)
    dispatcher.add_handler(_HANDLER, WorkerOutput(display, take))
    try:
        yield
    finally:
        dispatcher.remove_handler(_HANDLER)


class WorkerOutput:
    """Receives what Ray forwards from its processes.

    Args:
        display: Gets the events in it; all other lines are printed.
        take: Returns whether a line is shown elsewhere.
    """

    def __init__(self, display: Display, take: Callable[[str], bool] = lambda line: False) -> None:
        self._display, self._take = display, take
        self._shown: dict[str, tuple[object, float]] = {}
        """By line: the process that printed it, and when."""

    def __call__(self, forwarded: Mapping[str, Any]) -> None:
        """Show some lines of one process."""
        if any(name in str(forwarded.get("actor_name") or "") for name in QUIET):
            return
        source = (forwarded.get("ip"), forwarded.get("pid"))
        stream = sys.stderr if forwarded.get("is_err") else sys.stdout
        for line in _lines(forwarded):
            taken = self._take(line) or events.show(line, self._display)
            if not taken and self._is_new(line, source):
                print(line, file=stream, flush=True)

    def _is_new(self, line: str, source: object) -> bool:
        """False for a line that another process has just printed; several say the same thing at once."""
        now = time.monotonic()
        self._shown = {text: kept for text, kept in self._shown.items() if now - kept[1] < REPEATED_WITHIN}
        first = self._shown.setdefault(line, (source, now))
        return first[0] == source


def _lines(forwarded: Mapping[str, Any]) -> Iterator[str]:
    """Return what is worth showing: of the autoscaler, which logs its every look, only events."""
    lines = list(forwarded.get("lines", ()))
    if forwarded.get("pid") != "autoscaler":
        return iter(lines)
    from ray._private.worker import filter_autoscaler_events

    return filter_autoscaler_events(lines)
