"""One tracker that passes everything on to several: MLflow at once, the others each on its own thread."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, SupportsFloat

from qdet.tracking.aside import Aside
from qdet.tracking.tracker import ModelFacts, Picture, Status, Tracker


class SeveralTrackers:
    """See `Tracker`. The run's identity is the first one's.

    Args:
        first: Called directly: it does not wait for a server.
        others: Called on threads of their own; what they raise is printed once.
    """

    def __init__(self, first: Tracker, others: Sequence[Tracker]) -> None:
        self._first = first
        self._others = [(other, Aside(f"--track.loggers {name_of(other)}")) for other in others]

    @property
    def run_id(self) -> str | None:
        """The MLflow run, once it is known."""
        return self._first.run_id

    def params(self, values: Mapping[str, Any]) -> None:
        """Log the flat settings of the run."""
        self._all("params", values)

    def metrics(self, values: Mapping[str, SupportsFloat], step: int) -> None:
        """Log numbers at an optimizer step."""
        self._all("metrics", {name: float(value) for name, value in values.items()}, step)

    def tags(self, values: Mapping[str, Any]) -> None:
        """Set tags, replacing those of the same name."""
        self._all("tags", values)

    def dataset(
        self, name: str, digest: str, source: str, context: str, sizes: Mapping[str, int] | None = None
    ) -> None:
        """Log which data was read."""
        self._all("dataset", name, digest, source, context, sizes)

    def table(self, columns: Mapping[str, Sequence[Any]], file: str) -> None:
        """Log a table by columns."""
        self._all("table", columns, file)

    def picture(self, image: Picture, name: str, step: int) -> None:
        """Log an RGB picture."""
        self._all("picture", image if isinstance(image, Path) else image.copy(), name, step)

    def artifact(self, path: Path, folder: str = "") -> None:
        """Log a file, or every file in a folder."""
        self._all("artifact", path, folder)

    def text(self, text: str, file: str) -> None:
        """Log text as `file`."""
        self._all("text", text, file)

    def model(self, folder: Path, facts: ModelFacts) -> None:
        """Log a model; the folder may be gone when the others would read it, so they do not."""
        self._first.model(folder, facts)

    def close(self, status: Status | None = None, *, wait: float | int = 15) -> bool:
        """Send the rest within `wait` seconds; return whether all was sent."""
        for other, aside in self._others:
            aside.call("close", partial(other.close, status, wait=wait))
        sent = self._first.close(status, wait=wait)
        return all([sent, *(aside.close(wait) for _, aside in self._others)])

    def _all(self, method: str, *arguments: Any) -> None:
        getattr(self._first, method)(*arguments)
        for other, aside in self._others:
            call = partial(getattr(other, method), *arguments)
            aside.call(method, call, droppable=method == "metrics")


def name_of(tracker: Tracker) -> str:
    """Return the name by which `--track.loggers` chooses a tracker."""
    return getattr(tracker, "name", type(tracker).__name__)
