"""What passes between a training run and its launcher: identity, progress, metrics, requests to stop.

`train()` calls a `Reporter` and does not know Ray. `LocalReporter` is for a single process and torchrun;
`qdet.launching.ray_backend.reporter` has the one for Ray.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeVar, runtime_checkable

from qdet.storage.lease import Fence

T = TypeVar("T")

NO_AP = "no AP: no ground truth"
"""What an evaluation finds in a validation set without objects."""


@dataclass(frozen=True)
class Run:
    """The name of a training run and where it stores things."""

    name: str
    """Unique name of the run, and of its folder in the store."""
    store: str
    """Absolute path or URL of the folder that contains the folders of all runs."""
    mlflow_run_id: str | None = None
    """The MLflow run to log into; None logs nothing."""
    launched: float | None = None
    """Unix time at which this launch of the run began, before any restart; None: when training starts."""
    hash: str | None = None
    """Tells it from runs of the same name in other stores."""
    fence: Fence | None = None
    """Term of its lease under which this launch writes; None where it needs none, as in tests."""
    join_secret: str | None = field(default=None, repr=False)
    """What its ranks know and nobody else, where they meet by themselves."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far training is; reported every few steps on rank 0."""

    step: int
    steps: int
    epoch: float
    loss: float
    losses: Mapping[str, float] = field(default_factory=dict)
    """Terms of the loss by name, each summed over stages."""
    lr: float
    grad_norm: float
    images_per_second: float
    data_wait: float
    """Share of the time since the last report spent waiting for data, in [0, 1]."""
    memory: float = 0.0
    """Bytes that rank 0 takes: the most so far on its GPU, or now on the host."""
    eta_seconds: float

    def line(self) -> str:
        """Return it as one line."""
        terms = ", ".join(f"{name} {value:.3f}" for name, value in self.losses.items())
        return (
            f"step {self.step}/{self.steps}  loss {self.loss:.3f}{f' ({terms})' if terms else ''}  "
            f"{self.images_per_second:.1f} images/s  waiting for data {self.data_wait:.0%}  "
            f"epoch {self.epoch:.2f}  {gigabytes(self.memory)}  ETA {clock(self.eta_seconds)}"
        )


@dataclass(frozen=True, kw_only=True)
class Evaluating:
    """How far an evaluation is; reported on rank 0 at most once a second."""

    step: int
    """Steps of training before it."""
    done: int
    """Batches that rank 0 has looked at."""
    batches: int
    """Batches of rank 0 in all."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What an evaluation found."""

    step: int
    metrics: Mapping[str, float]
    """All of it, such as `val/AP`."""
    before: float | None = None
    """AP of the evaluation before it in this process."""

    @property
    def ap(self) -> float:
        """COCO's AP; NaN without ground truth."""
        return self.metrics.get("val/AP", math.nan)

    def line(self) -> str:
        """Return it as one line, with the change of AP."""
        if math.isnan(self.ap):
            return f"evaluated after step {self.step}: {NO_AP}"
        change = "" if self.before is None else f" ({self.ap - self.before:+.4f})"
        others = "".join(
            f"  {name} {self.metrics[f'val/{name}']:.4f}"
            for name in ("AP50", "AP75")
            if f"val/{name}" in self.metrics
        )
        return f"evaluated after step {self.step}: AP {self.ap:.4f}{change}{others}"


@runtime_checkable
class Display(Protocol):
    """Where people see how a run is going."""

    def progress(self, progress: Progress) -> None:
        """Show how far training is."""
        ...

    def evaluating(self, evaluating: Evaluating) -> None:
        """Show how far an evaluation is."""
        ...

    def evaluated(self, evaluation: Evaluation) -> None:
        """Show what an evaluation found."""
        ...


class PlainLines:
    """A display that prints a line for every progress and every result: for pipes and logs.

    Args:
        label: Begins every line.
    """

    def __init__(self, label: str = "") -> None:
        self.label = label

    def progress(self, progress: Progress) -> None:
        """Print one line."""
        print(f"{self.label}{progress.line()}", flush=True)

    def evaluating(self, evaluating: Evaluating) -> None:
        """Print nothing."""

    def evaluated(self, evaluation: Evaluation) -> None:
        """Print one line."""
        print(f"{self.label}{evaluation.line()}", flush=True)


_LINES = PlainLines()
EVERY = 1.0
"""Seconds between two reports of how far an evaluation is."""


def watched(
    batches: Iterable[T],
    count: int,
    step: int,
    show: Callable[[Evaluating], None],
    *,
    now: Callable[[], float] = time.monotonic,
) -> Iterator[T]:
    """Yield the batches of an evaluation after `step` steps, and show how far it is.

    Args:
        batches: Those of this rank.
        count: How many they are.
        step: Steps of training before it.
        show: Gets it before the first batch, and then at most once a second.
        now: Tells the time, in seconds.
    """
    last = -math.inf
    for done, batch in enumerate(batches):
        if (at := now()) - last >= EVERY:
            last = at
            show(Evaluating(step=step, done=done, batches=count))
        yield batch


def clock(seconds: float) -> str:
    """Return a duration as a clock shows it.

    >>> clock(62), clock(3 * 3600 + 5)
    ('1:02', '3:00:05')
    """
    if not math.isfinite(seconds):
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def gigabytes(size: float) -> str:
    """Return a number of bytes in GB."""
    return f"{size / 1e9:.1f} GB"


@runtime_checkable
class Reporter(Protocol):
    """How `train()` talks to its launcher."""

    def progress(self, progress: Progress) -> None:
        """Show how far training is (rank 0 only)."""
        ...

    def evaluating(self, evaluating: Evaluating) -> None:
        """Show how far an evaluation is (rank 0 only)."""
        ...

    def evaluated(self, step: int, metrics: Mapping[str, float]) -> None:
        """Take the metrics of an evaluation after `step` steps (every rank, the same metrics)."""
        ...

    def resumed(self, evaluations: Mapping[int, Mapping[str, float]]) -> None:
        """Take metrics by step, in order, of evaluations before a restart (every rank, the same).

        The last of them may never have reached the launcher: the worker was killed before.
        """
        ...

    def saved(self, step: int, folder: str) -> None:
        """Take note that the checkpoint in `folder` is complete (rank 0 only, on the writing thread)."""
        ...

    def stop_requested(self) -> bool:
        """Whether this worker was asked to stop. Does not wait; called in every step."""
        ...

    def preempted(self) -> bool:
        """Whether a machine of the run was newly announced to be taken away (collective)."""
        ...


class LocalReporter:
    """Reports to a display in this process: for one process, and torchrun.

    Args:
        stop_requested: Whether this process was asked to stop.
        display: Where it is shown, by default as lines; None, of all ranks but the first, shows nothing.
    """

    def __init__(
        self, stop_requested: Callable[[], bool] = lambda: False, display: Display | None = _LINES
    ) -> None:
        self._stop_requested, self._display = stop_requested, display
        self._ap: float | None = None

    def progress(self, progress: Progress) -> None:
        """Show it."""
        if self._display is not None:
            self._display.progress(progress)

    def evaluating(self, evaluating: Evaluating) -> None:
        """Show it."""
        if self._display is not None:
            self._display.evaluating(evaluating)

    def evaluated(self, step: int, metrics: Mapping[str, float]) -> None:
        """Show it."""
        found = Evaluation(step=step, metrics=metrics, before=self._ap)
        self._ap = found.ap
        if self._display is not None:
            self._display.evaluated(found)

    def resumed(self, evaluations: Mapping[int, Mapping[str, float]]) -> None:
        """Do nothing: they have been shown."""

    def saved(self, step: int, folder: str) -> None:
        """Do nothing."""

    def stop_requested(self) -> bool:
        """Whether this process was asked to stop."""
        return self._stop_requested()

    def preempted(self) -> bool:
        """Return False: without Ray, only a signal announces it."""
        return False
