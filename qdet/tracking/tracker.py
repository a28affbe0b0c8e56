"""What a run logs: to MLflow, or nowhere."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, SupportsFloat, runtime_checkable

import numpy as np
from jaxtyping import UInt8

Status = Literal["FINISHED", "FAILED", "KILLED"]
Picture = Path | UInt8[np.ndarray, "H W 3"]


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """What is shown of a logged model."""

    name: str
    """Within its run."""
    step: int
    """Training steps behind its weights."""
    metrics: Mapping[str, SupportsFloat]
    """Those of an evaluation of these weights."""
    params: Mapping[str, Any]
    """What else there is to say."""


@runtime_checkable
class Tracker(Protocol):
    """Receives what a run logs. No method waits for a server or raises because of one."""

    @property
    def run_id(self) -> str | None:
        """The MLflow run, once it is known."""
        ...

    def params(self, values: Mapping[str, Any]) -> None:
        """Log the flat settings of the run."""
        ...

    def metrics(self, values: Mapping[str, SupportsFloat], step: int) -> None:
        """Log numbers at an optimizer step."""
        ...

    def tags(self, values: Mapping[str, Any]) -> None:
        """Set tags, replacing those of the same name."""
        ...

    def dataset(
        self, name: str, digest: str, source: str, context: str, sizes: Mapping[str, int] | None = None
    ) -> None:
        """Log which data was read.

        Args:
            name: Of the dataset.
            digest: Identity of its content.
            source: Where it is.
            context: Its role, such as "training".
            sizes: How many images and classes it has, where that is known.
        """
        ...

    def table(self, columns: Mapping[str, Sequence[Any]], file: str) -> None:
        """Log a table by columns as `file`, which ends in .json."""
        ...

    def picture(self, image: Picture, name: str, step: int) -> None:
        """Log an RGB picture."""
        ...

    def artifact(self, path: Path, folder: str = "") -> None:
        """Log a file, or every file in a folder, into `folder` of the run."""
        ...

    def text(self, text: str, file: str) -> None:
        """Log text as `file`, without secrets."""
        ...

    def model(self, folder: Path, facts: ModelFacts) -> None:
        """Log a model in MLflow's format; the caller may remove the folder afterwards."""
        ...

    def close(self, status: Status | None = None, *, wait: float | int = 15) -> bool:
        """Send the rest within `wait` seconds; return whether all was sent. No status: the run stays open."""
        ...


class NullTracker:
    """Logs nothing, as ranks other than 0 do."""

    @property
    def run_id(self) -> str | None:
        """No run."""
        return None

    def params(self, values: Mapping[str, Any]) -> None:
        """Drop them."""

    def metrics(self, values: Mapping[str, SupportsFloat], step: int) -> None:
        """Drop them."""

    def tags(self, values: Mapping[str, Any]) -> None:
        """Drop them."""

    def dataset(
        self, name: str, digest: str, source: str, context: str, sizes: Mapping[str, int] | None = None
    ) -> None:
        """Drop it."""

    def table(self, columns: Mapping[str, Sequence[Any]], file: str) -> None:
        """Drop it."""

    def picture(self, image: Picture, name: str, step: int) -> None:
        """Drop it."""

    def artifact(self, path: Path, folder: str = "") -> None:
        """Drop it."""

    def text(self, text: str, file: str) -> None:
        """Drop it."""

    def model(self, folder: Path, facts: ModelFacts) -> None:
        """Drop it."""

    def close(self, status: Status | None = None, *, wait: float | int = 15) -> bool:
        """Do nothing."""
        return True
