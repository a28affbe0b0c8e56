"""Progress as a line of text from a worker to the driver, where people see it.

A worker prints the line, as everything else that it has to say: that costs a step nothing, and is kept in
the worker's log when no driver reads it any more.
"""

import json
from dataclasses import asdict

from qdet.storage.parsing import parse_json
from qdet.training.reporting import Display, Evaluating, Evaluation, Progress

MARK = "qdet-event "
"""Begins every such line."""
Event = Progress | Evaluating | Evaluation
_KINDS: dict[str, type[Event]] = {
    "progress": Progress,
    "evaluating": Evaluating,
    "evaluation": Evaluation,
}


class EventLines:
    """A display that prints what it is given for the display of another process."""

    def progress(self, progress: Progress) -> None:
        """Print it as an event."""
        print(encode(progress), flush=True)

    def evaluating(self, evaluating: Evaluating) -> None:
        """Print it as an event."""
        print(encode(evaluating), flush=True)

    def evaluated(self, evaluation: Evaluation) -> None:
        """Print it as an event."""
        print(encode(evaluation), flush=True)


def encode(event: Event) -> str:
    """Return an event as one line, without the end of the line."""
    kind = next(name for name, of in _KINDS.items() if isinstance(event, of))
    return MARK + json.dumps({"kind": kind, **asdict(event)})


def decode(line: str) -> Event | None:
    """Return the event in a line; None where there is none, or only the beginning of one."""
    if not line.startswith(MARK):
        return None
    try:
        content = parse_json(line.removeprefix(MARK))
        return _KINDS[content.pop("kind")](**content)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def show(line: str, display: Display) -> bool:
    """Show the event in a line on a display; return False where there is none."""
    event = decode(line)
    if isinstance(event, Progress):
        display.progress(event)
    elif isinstance(event, Evaluating):
        display.evaluating(event)
    elif event is not None:
        display.evaluated(event)
    return event is not None
