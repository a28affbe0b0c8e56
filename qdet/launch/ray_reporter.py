"""How a run speaks through Ray Train: metrics for schedulers, progress to the driver's output."""

from collections.abc import Mapping

from qdet.training.reporting import Progress


class RayReporter:
    """A `Reporter` for a worker of Ray Train."""

    def progress(self, progress: Progress) -> None:
        """Print one line; Ray brings it to the driver."""
        print(progress.line(), flush=True)

    def evaluated(self, step: int, metrics: Mapping[str, float]) -> None:
        """Report to Ray Train, which waits for all workers and takes a second: too slow for every step."""
        import ray.train

        ray.train.report({"step": step, **metrics})
