"""Where a training starts: at the run's newest good checkpoint, at another's weights, or at nothing."""

from torch import Tensor, nn

from qdet.checkpoint import RunFolder, Saved, open_folder, verify
from qdet.checkpoint.fit import check_start, load_weights
from qdet.data.shards.protocol import Dataset
from qdet.job import Job
from qdet.storage import Folder
from qdet.training.checkpointing.compatibility import check_unchanged
from qdet.training.checkpointing.contents import Past
from qdet.training.distributed import World
from qdet.training.ema import Ema
from qdet.training.zero import ZeroEngine


class Start:
    """What a training finds when it starts. All methods are collective.

    Raises:
        CheckpointError: Checkpoints are there but none is whole, or the job does not fit the last.
    """

    def __init__(self, job: Job, world: World, shards: Dataset, run: RunFolder) -> None:
        self.job, self.world, self.shards = job, world, shards
        self.last: Saved | None = self._find(run)
        """The checkpoint that training goes on from; None in a new run."""

    def give_weights(self, module: nn.Module) -> bool:
        """Give `module` the weights of the last checkpoint or `store.init_from`; False without either."""
        source = self.job.store.init_from
        if self.last is not None:
            load_weights(module, self.last.all("weights"), source=self.last.folder)
        elif source is not None:
            start = self._open(open_folder(source))
            classes = self.shards.categories.names
            check_start(start, detector=type(self.job.detector).__name__, classes=classes)
            load_weights(module, start.model(), source=source)
        return self.last is not None or source is not None

    def go_on(self, engine: ZeroEngine, ema: Ema) -> int:
        """Give optimizer and average what the last checkpoint holds; return the steps done by then."""
        if self.last is None:
            return 0
        engine.state.load_moments(self.last)
        ema.load(self.last, engine.state)
        return self.last.state.step

    @property
    def past(self) -> Past:
        """What the run remembers of the steps up to the last checkpoint."""
        if self.last is None:
            return Past(skipped=(), losses=(), unreadable={})
        state = self.last.state
        return Past(skipped=state.skipped, losses=state.losses, unreadable=state.unreadable)

    def ledgers(self) -> list[Tensor]:
        """Return what each rank had saved as its ledger in the last checkpoint."""
        return [] if self.last is None else list(self.last.all("ledger").values())

    def _find(self, run: RunFolder) -> Saved | None:
        def newest() -> str | None:
            found = run.newest_good(lambda why: print(f"passing over a checkpoint: {why}", flush=True))
            return None if found is None else found.name

        name = self.world.on_main(newest)
        if name is None:
            return None
        saved = Saved(run.folder.child(name), verified=True)
        changed = check_unchanged(saved, self.job, self.shards.digest)
        if changed and self.world.main:
            print(f"going on with another recipe: {'; '.join(map(str, changed))}", flush=True)
        return saved

    def _open(self, folder: Folder) -> Saved:
        """Open a checkpoint of which one rank has seen every byte."""
        if folder.local is not None:
            self.world.on_main(lambda: verify(folder))
        return Saved(folder, verified=True)
