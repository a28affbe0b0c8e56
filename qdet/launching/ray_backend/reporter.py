"""Report through Ray Train: metrics to schedulers, progress to the driver's display."""

from collections.abc import Callable, Mapping

from qdet.training.reporting import Display, Evaluating, Evaluation, Progress


class RayReporter:
    """A `Reporter` for a worker of Ray Train.

    Args:
        stop: Whether the driver requests a graceful stop.
        watch_preemption: Whether Ray Train watches for preempted nodes.
        display: Prints what Ray forwards to the driver; None, of all ranks but the first, shows nothing.
    """

    def __init__(
        self, stop: Callable[[], bool], *, watch_preemption: bool, display: Display | None = None
    ) -> None:
        self._stop, self._watch_preemption, self._display = stop, watch_preemption, display
        self._ap: float | None = None
        self._draining: set[str] = set()

    def progress(self, progress: Progress) -> None:
        """Print it; Ray forwards that to the driver."""
        if self._display is not None:
            self._display.progress(progress)

    def evaluating(self, evaluating: Evaluating) -> None:
        """Print it, if the driver has a bar."""
        if self._display is not None:
            self._display.evaluating(evaluating)

    def evaluated(self, step: int, metrics: Mapping[str, float]) -> None:
        """Report to Ray Train: it waits for all workers and takes a second, too slow for every step."""
        import ray.train

        found = Evaluation(step=step, metrics=metrics, before=self._ap)
        self._ap = found.ap
        if self._display is not None:
            self._display.evaluated(found)
        ray.train.report({"step": step, **metrics})

    def resumed(self, evaluations: Mapping[int, Mapping[str, float]]) -> None:
        """Report them to Ray Train once more: a sweep, which counts no epoch twice, may have missed one."""
        import ray.train

        for step, metrics in evaluations.items():
            ray.train.report({"step": step, **metrics})

    def saved(self, step: int, folder: str) -> None:
        """Do nothing: Ray Train knows nothing of our checkpoints."""

    def stop_requested(self) -> bool:
        """Return whether the driver requests a graceful stop."""
        return self._stop()

    def preempted(self) -> bool:
        """Return whether another node of the run is being drained: save a checkpoint and keep training.

        Once the node is gone, Ray Train restarts the workers on other nodes.
        """
        import ray.train

        notice = ray.train.get_preemption_info() if self._watch_preemption else None
        new = set(notice.preempted_node_ids) - self._draining if notice else set()
        self._draining |= new
        return bool(new)
