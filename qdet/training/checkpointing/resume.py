"""Where training starts: from the run's newest intact checkpoint, from given weights, or from scratch."""

from torch import Tensor, nn

from qdet.checkpoint import Checkpoint, RunFolder, TrainState, open_folder, verify
from qdet.checkpoint.fit import check_start, load_weights
from qdet.data.shards.protocol import Dataset
from qdet.job import Job
from qdet.storage import Folder
from qdet.training.checkpointing.compatibility import check_unchanged
from qdet.training.distributed import World
from qdet.training.ema import Ema
from qdet.training.zero import ZeroEngine


class Start:
    """What training starts from. Constructing it and all methods are collective.

    Raises:
        CheckpointError: There are checkpoints but none is intact, or the job does not fit the last.
    """

    def __init__(self, job: Job, world: World, shards: Dataset, run: RunFolder) -> None:
        self.job, self.world, self.shards = job, world, shards
        self.last: Checkpoint | None = self._find(run)
        """The checkpoint that training resumes from; None in a new run."""

    @property
    def step(self) -> int:
        """Steps done by the last checkpoint."""
        return 0 if self.last is None else self.last.state.step

    @property
    def state(self) -> TrainState | None:
        """What the last checkpoint holds besides tensors."""
        return None if self.last is None else self.last.state

    def load_weights(self, module: nn.Module) -> bool:
        """Load the weights of the last checkpoint or of `store.init_from`; False without either."""
        source = self.job.store.init_from
        if self.last is not None:
            load_weights(module, self.last.all("weights"), source=self.last.folder)
        elif source is not None:
            start = self._open(open_folder(source))
            classes = self.shards.categories.names
            check_start(start, detector=type(self.job.detector).__name__, classes=classes)
            load_weights(module, start.model(), source=source)
        return self.last is not None or source is not None

    def load_optimizer(self, engine: ZeroEngine, ema: Ema) -> None:
        """Load AdamW's moments and the averaged weights of the last checkpoint."""
        if self.last is not None:
            engine.state.load_moments(self.last)
            ema.load(self.last, engine.state)

    def ledgers(self) -> list[Tensor]:
        """Return the ledgers that the ranks saved in the last checkpoint."""
        return [] if self.last is None else list(self.last.all("ledger").values())

    def _find(self, run: RunFolder) -> Checkpoint | None:
        def newest() -> str | None:
            found = run.newest_good(lambda why: print(f"skipping a checkpoint: {why}", flush=True))
            return None if found is None else found.name

        name = self.world.on_main(newest)
        if name is None:
            return None
        saved = Checkpoint(run.folder.child(name), verified=True)
        changed = check_unchanged(saved, self.job, self.shards.digest)
        if changed and self.world.main:
            print(f"resuming with changed settings: {'; '.join(map(str, changed))}", flush=True)
        return saved

    def _open(self, folder: Folder) -> Checkpoint:
        """Open a checkpoint after rank 0 has verified every byte of it."""
        if folder.local is not None:
            self.world.on_main(lambda: verify(folder))
        return Checkpoint(folder, verified=True)
