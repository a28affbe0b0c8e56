"""A reporter that calls a user's own code.

The calls are made in the process of rank 0, on one thread per callback, in order. They neither stop nor stall
the training: what they raise is printed once, steps are dropped for a callback that is slower than the
training, and one that does not return is left behind at the end.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from qdet.errors import ConfigError
from qdet.masking import mask
from qdet.tracking.aside import Aside
from qdet.training.hooks.callbacks import Callbacks, Ended
from qdet.training.reporting import Evaluating, Progress, Reporter

PATIENCE = 15.0
"""Seconds that callbacks may take to finish at the end."""


class CallingReporter:
    """A reporter that passes everything on, and tells the callbacks.

    Args:
        reporter: The launcher's.
        callbacks: The user's; only on rank 0.
    """

    def __init__(self, reporter: Reporter, callbacks: Sequence[Callbacks]) -> None:
        self._reporter = reporter
        self._callbacks = [(each, Aside(f"callback {type(each).__name__}")) for each in callbacks]
        self._step, self._metrics = 0, dict[str, float]()

    def progress(self, progress: Progress) -> None:
        """Show how far training is."""
        self._reporter.progress(progress)
        self._step = progress.step
        for each, aside in self._callbacks:
            aside.call("on_step", lambda on=each.on_step: on(progress), droppable=True)

    def evaluating(self, evaluating: Evaluating) -> None:
        """Show how far an evaluation is."""
        self._reporter.evaluating(evaluating)

    def evaluated(self, step: int, metrics: Mapping[str, float]) -> None:
        """Take the metrics of an evaluation."""
        self._reporter.evaluated(step, metrics)
        self._step, self._metrics = step, dict(metrics)
        for each, aside in self._callbacks:
            aside.call("on_evaluation", lambda on=each.on_evaluation: on(step, dict(metrics)))

    def resumed(self, evaluations: Mapping[int, Mapping[str, float]]) -> None:
        """Take the metrics of evaluations before a restart; callbacks have had them."""
        self._reporter.resumed(evaluations)

    def saved(self, step: int, folder: str) -> None:
        """Take note of a complete checkpoint."""
        self._reporter.saved(step, folder)
        for each, aside in self._callbacks:
            aside.call("on_checkpoint", lambda on=each.on_checkpoint: on(step, folder))

    def stop_requested(self) -> bool:
        """Whether this worker was asked to stop."""
        return self._reporter.stop_requested()

    def preempted(self) -> bool:
        """Whether a machine of the run was newly announced to be taken away."""
        return self._reporter.preempted()

    def end(self, ended: Ended) -> None:
        """Tell the callbacks how training ended, and wait for them a while."""
        for each, aside in self._callbacks:
            aside.call("on_end", lambda on=each.on_end: on(ended))
        for _, aside in self._callbacks:
            aside.close(PATIENCE)

    def fail(self, cause: BaseException) -> None:
        """Tell the callbacks that an error ended training, as far as this reporter knows."""
        self.end(Ended("failed", self._step, self._metrics, mask(f"{type(cause).__name__}: {cause}")))


@contextmanager
def calling(
    reporter: Reporter, callbacks: Sequence[Callbacks]
) -> Iterator[tuple[Reporter, Callable[[Ended], None]]]:
    """Give a reporter that calls the callbacks, and a function to end them; an error ends them as failed."""
    called = CallingReporter(reporter, callbacks)
    try:
        yield called, called.end
    except BaseException as error:
        called.fail(error)
        raise


def check_callbacks(callbacks: Sequence[object], *, sent: bool) -> None:
    """Raise unless these are callbacks and, if they are to be sent to workers, can be.

    Raises:
        ConfigError: One is no `Callbacks`, or holds something that no other process can have.
    """
    for each in callbacks:
        name = type(each).__name__
        if not isinstance(each, Callbacks):
            raise ConfigError(f"launch(callbacks=...): {name} is no qdet.Callbacks; derive its class from it")
        if sent:
            from ray import cloudpickle

            try:
                cloudpickle.dumps(each)  # pyright: ignore[reportPrivateImportUsage]
            except Exception as error:
                raise ConfigError(
                    f"callback {name} cannot be sent to a worker ({error}): open files, connections and "
                    "locks in its first call instead"
                ) from error
