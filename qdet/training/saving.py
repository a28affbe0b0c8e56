"""A training's checkpoints: where it starts, how it goes on from the last one, and writing the next."""

import tempfile
from pathlib import Path

from torch import nn

from qdet.config import flatten
from qdet.data.shards import ShardSet
from qdet.job import Job
from qdet.tracking import Tracker
from qdet.training import checkpoint
from qdet.training.checkpoint import Checkpoint, TrainState
from qdet.training.checks import check_unchanged
from qdet.training.distributed import World
from qdet.training.ema import Ema
from qdet.training.reporting import Reporter
from qdet.training.zero import ZeroEngine


class Saving:
    """Reads and writes the checkpoints of one run. Methods are collective."""

    def __init__(self, job: Job, world: World, shards: ShardSet, reporter: Reporter) -> None:
        self.job, self.world, self.shards, self.reporter = job, world, shards, reporter
        self.last: Checkpoint | None = self._read_last()
        """The checkpoint that training goes on from; None in a new run."""

    def start(self, module: nn.Module) -> bool:
        """Give `module` its weights from the last checkpoint or `store.init_from`; False if neither is there."""
        source = self.job.store.init_from
        if self.last is not None:
            checkpoint.load_weights(module, self.last.weights, source=Path("the run's last checkpoint"))
        elif source is not None:
            start, kind = checkpoint.read(Path(source)), type(self.job.detector).__name__
            names = self.shards.categories.names
            checkpoint.check_start(start, detector=kind, classes=names, source=Path(source))
            checkpoint.load_weights(module, start.average or start.weights, source=Path(source))
        return self.last is not None or source is not None

    def go_on(self, engine: ZeroEngine, ema: Ema) -> int:
        """Give optimizer and average what the last checkpoint holds; return the steps done by then."""
        if self.last is None:
            return 0
        step = self.last.state.step
        engine.load_moments(self.last.moments, step=step)
        if self.last.average is not None:
            ema.load(self.last.average, updates=self.last.state.ema_updates, share=engine.share)
        self.last = None  # its memory is needed elsewhere
        return step

    def save(
        self, engine: ZeroEngine, ema: Ema, *, step: int, metrics: dict[str, float], model_to: Tracker | None
    ) -> None:
        """Write a checkpoint and hand it to the reporter; `model_to` also gets the exported model."""
        weights, moments = engine.weights(), engine.moments()
        average = None
        if self.job.optim.ema_decay:
            with ema.swapped():
                average = engine.weights()
        state = self._state(step, ema)
        saved = Checkpoint(
            weights=weights, moments=moments, average=average, state=state, job=flatten(self.job)
        )
        folder = self.world.on_main(lambda: checkpoint.write_new(saved))
        folder = folder if self.world.main else None
        if self.world.main and model_to is not None:
            with tempfile.TemporaryDirectory() as model:
                checkpoint.export(Path(model), saved)
                model_to.model(Path(model))
        self.reporter.checkpoint(folder, step=step, metrics=metrics)
        self.world.barrier()

    def _state(self, step: int, ema: Ema) -> TrainState:
        categories = self.shards.categories
        return TrainState(
            step=step,
            ema_updates=ema.updates,
            seed=self.job.train.seed,
            batch_size=self.job.train.batch_size,
            data_digest=self.shards.digest,
            categories={"names": list(categories.names), "ids": list(categories.ids)},
        )

    def _read_last(self) -> Checkpoint | None:
        """Read the run's last checkpoint, if there is one, and see that the job still fits it."""
        folder = self.reporter.latest_checkpoint()
        if folder is None:
            return None
        saved = checkpoint.read(folder)
        check_unchanged(saved.state, self.job, self.shards.digest, folder)
        return saved
