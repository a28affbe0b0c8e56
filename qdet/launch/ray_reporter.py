"""How a run speaks through Ray Train: checkpoints go to its store, progress to the driver's output."""

import tempfile
from collections.abc import Mapping
from pathlib import Path

from qdet.training.reporting import Progress


class RayReporter:
    """A `Reporter` for a worker of Ray Train."""

    def __init__(self, rank: int) -> None:
        self._rank = rank

    def progress(self, progress: Progress) -> None:
        """Print one line; Ray brings it to the driver."""
        print(progress.line(), flush=True)

    def latest_checkpoint(self) -> Path | None:
        """Return the last checkpoint that Ray Train holds for this run, downloaded where it is not local."""
        import ray.train
        from pyarrow.fs import LocalFileSystem

        checkpoint = ray.train.get_checkpoint()
        if checkpoint is None:
            return None
        if isinstance(checkpoint.filesystem, LocalFileSystem) and Path(checkpoint.path).is_dir():
            return Path(checkpoint.path)
        return Path(checkpoint.to_directory(tempfile.mkdtemp(prefix="qdet-checkpoint-")))

    def checkpoint(self, folder: Path | None, *, step: int, metrics: Mapping[str, float]) -> None:
        """Store rank 0's folder; Ray records it once every rank has come here, and so never half of one."""
        import ray.train

        held = ray.train.Checkpoint.from_directory(folder) if folder is not None and self._rank == 0 else None
        ray.train.report(
            {"step": step, **metrics},
            checkpoint=held,
            checkpoint_dir_name=f"step_{step:06d}",
            delete_local_checkpoint_after_upload=True,
        )
