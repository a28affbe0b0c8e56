"""How a run speaks through Ray Train: metrics for schedulers, progress to the driver's output."""

from collections.abc import Callable, Mapping

from qdet.training.reporting import Progress


class RayReporter:
    """A `Reporter` for a worker of Ray Train.

    Args:
        asked: Whether the driver asks this run to leave.
        watched: Whether Ray Train looks out for nodes that are taken away.
    """

    def __init__(self, asked: Callable[[], bool], *, watched: bool) -> None:
        self._asked, self._watched = asked, watched
        self._going: set[str] = set()

    def progress(self, progress: Progress) -> None:
        """Print one line; Ray brings it to the driver."""
        print(progress.line(), flush=True)

    def evaluated(self, step: int, metrics: Mapping[str, float]) -> None:
        """Report to Ray Train, which waits for all workers and takes a second: too slow for every step."""
        import ray.train

        ray.train.report({"step": step, **metrics})

    def stop_requested(self) -> bool:
        """Whether the driver asks this run to leave."""
        return self._asked()

    def preempted(self) -> bool:
        """Whether a node of the run is drained that was not before: time for a checkpoint, then to go on.

        Ray Train starts the workers again, elsewhere, when the node is gone.
        """
        import ray.train

        notice = ray.train.get_preemption_info() if self._watched else None
        new = set(notice.preempted_node_ids) - self._going if notice else set()
        self._going |= new
        return bool(new)
