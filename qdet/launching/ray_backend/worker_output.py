"""What workers print, as the driver shows it: without Ray's prefix, each line once, events on the display.

Ray forwards the files that its processes print into; what is shown here is in them too (`/tmp/ray`), also
when the driver is gone.
"""

import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from qdet.launching.display import events
from qdet.training.reporting import Display

QUIET = ("PlacementGroupCleaner",)
"""Processes of Ray Train that say nothing about a training."""
CONTROLLER = "TrainController"
"""Ray Train's process beside the driver of a run: on stderr, tracebacks of all that it tries again."""
REPEATED_WITHIN = 10.0
"""Seconds within which a line of one worker is not shown again for another."""
_FOR_RAYS_DEVELOPERS = re.compile(r"\[\d{4}-\d\d-\d\d [\d:,]+ [IWE] \d+ \d+\] ")
"""Begins a line of the log of Ray's core; a fatal one (C) is shown."""
_HARMLESS = ("maximum expected startup concurrency", "There are infinite retries remaining")
"""What a raylet says of processes that need no CPU, and of calls to a process that Ray starts again."""
_RETRIED = ("it's safe to ignore this error", "Failed to cancel resource request")
"""In what Ray Train says, with a traceback, of requests that a busy machine delays and it repeats."""
_LOST_NODE = re.compile(
    r"The node with node id: \S+ and address: (\S+) and .* has been marked dead", re.DOTALL
)
_FIRST_OF_TRIAL = re.compile(r"(trial t\d+: )rank 0 is process ")
"""First line of a trial's worker."""
_RAY_HANDLER = "ray_print_logs"
_HANDLER = "qdet"


@contextmanager
def forwarded_to(
    display: Display, take: Callable[[str], bool] = lambda line: False, *, quiet: Sequence[str] = ()
) -> Iterator[None]:
    """Show on `display` what workers print inside the block, in place of Ray's own forwarding.

    After it nothing of theirs is shown: all that processes which are about to end say is that others have.

    Args:
        display: Gets the events in it; all other lines are printed.
        take: Returns whether a line is shown elsewhere.
        quiet: Names of processes whose stderr is not shown.
    """
    from ray._private import worker
    from ray._private.ray_logging import global_worker_stdstream_dispatcher as dispatcher

    output, ray_prints = WorkerOutput(display, take, quiet=quiet), worker.print_to_stdstream
    dispatcher.remove_handler(_RAY_HANDLER)
    dispatcher.add_handler(_HANDLER, output)
    worker.print_to_stdstream = lambda said, **_: output(said)  # messages of raylets pass no handler
    try:
        yield
    finally:
        worker.print_to_stdstream = ray_prints
        dispatcher.remove_handler(_HANDLER)


class WorkerOutput:
    """Receives what Ray forwards from its processes.

    Args:
        display: Gets the events in it; all other lines are printed.
        take: Returns whether a line is shown elsewhere.
        quiet: Names of processes whose stderr is not shown.
    """

    def __init__(
        self, display: Display, take: Callable[[str], bool] = lambda line: False, *, quiet: Sequence[str] = ()
    ) -> None:
        self._display, self._take, self._quiet = display, take, quiet
        self._shown: dict[str, tuple[object, float]] = {}
        """By line: the process that printed it, and when."""
        self._trials: dict[object, str] = {}
        """By process: what the lines of the trial that it trains begin with."""
        self._ignored: dict[object, str] = {}
        """By process and stream: the last line, where that and what belongs to it is not shown."""

    def __call__(self, forwarded: Mapping[str, Any]) -> None:
        """Show some lines of one process."""
        silent = (*QUIET, *self._quiet) if forwarded.get("is_err") else QUIET
        if any(name in str(forwarded.get("actor_name") or "") for name in silent):
            return
        source = (forwarded.get("ip"), forwarded.get("pid"))
        stream = sys.stderr if forwarded.get("is_err") else sys.stdout
        lines = (line for line in _lines(forwarded) if not self._is_ignored((source, stream), line))
        for line in map(partial(self._label, source), lines):
            taken = self._take(line) or events.show(line, self._display)
            if not taken and self._is_new(line, source):
                print(line, file=stream, flush=True)

    def _label(self, source: object, line: str) -> str:
        """Return a line with the trial that it is about."""
        if first := _FIRST_OF_TRIAL.match(line):
            self._trials[source] = first[1]
        label = self._trials.get(source, "")
        return line if line.startswith(label) else f"{label}{line}"

    def _is_ignored(self, source: object, line: str) -> bool:
        """Return whether a line, or the one whose traceback it is in, says what Ray makes good by itself."""
        before = self._ignored.pop(source, "")
        begins = any(part in line for part in _RETRIED) or bool(before and line.startswith("Traceback "))
        inside = before.startswith(("Traceback ", " "))
        if begins or (inside and line.startswith(" ")):
            self._ignored[source] = line
        return begins or inside  # the line that ends a traceback is the exception

    def _is_new(self, line: str, source: object) -> bool:
        """False for a line that another process has just printed; several say the same thing at once."""
        now = time.monotonic()
        self._shown = {text: kept for text, kept in self._shown.items() if now - kept[1] < REPEATED_WITHIN}
        first = self._shown.setdefault(line, (source, now))
        return first[0] == source


def _lines(forwarded: Mapping[str, Any]) -> Iterator[str]:
    """Return what is worth showing: of the autoscaler, which logs its every look, only events."""
    lines = list(forwarded.get("lines", ()))
    if forwarded.get("pid") == "raylet":
        return _tell_of_nodes(lines)
    if forwarded.get("pid") != "autoscaler":
        return (line for line in lines if not _FOR_RAYS_DEVELOPERS.match(line))
    from ray._private.worker import filter_autoscaler_events

    return filter_autoscaler_events(lines)


def _tell_of_nodes(messages: Sequence[str]) -> Iterator[str]:
    """Yield what raylets say, a line for each message, without what nobody has to act upon."""
    for message in messages:
        if lost := _LOST_NODE.search(message):
            yield f"node {lost[1]} was lost"
        elif not any(part in message for part in _HARMLESS):
            yield f"Ray: {' '.join(message.split())}"
