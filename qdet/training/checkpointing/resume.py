"""Where training starts: from the run's newest intact checkpoint, from given weights, or from scratch."""

from collections.abc import Iterator

from torch import Tensor

from qdet.checkpoint import Checkpoint, RunFolder, TrainState, open_folder, verify
from qdet.checkpoint.fit import check_fit, load_weights
from qdet.checkpoint.manifest import read_manifest
from qdet.checkpoint.reading import DOWNLOADED
from qdet.data.shards.protocol import Dataset
from qdet.detectors.detector import Detector
from qdet.errors import CheckpointError
from qdet.inference import origin
from qdet.inference.build import describe_weights
from qdet.job import Job
from qdet.storage.scratch import remove_abandoned
from qdet.training.checkpointing.compatibility import check_unchanged
from qdet.training.distributed import World
from qdet.training.ema import Ema
from qdet.training.engine.engine import Engine

EVALUATIONS = 3
"""Evaluations that a resumed training reports again: the launcher may have missed the last before a kill."""


class Start:
    """What training starts from. Constructing it and all methods are collective.

    Raises:
        CheckpointError: There are checkpoints but none is intact, or the job does not fit the last.
        LeaseError: Another driver has taken over the run.
    """

    def __init__(self, job: Job, world: World, shards: Dataset, run: RunFolder) -> None:
        self.job, self.world, self.shards = job, world, shards
        for left in remove_abandoned(DOWNLOADED):
            print(f"removed {left}, which a killed process has left", flush=True)
        self.evaluations: dict[int, dict[str, float]] = {}
        """Metrics of the newest evaluated checkpoints that training resumes after, by step; at most
        `EVALUATIONS`."""
        self.last: Checkpoint | None = self._find(run)
        """The checkpoint that training resumes from; None in a new run."""
        self.notes: tuple[str, ...] = ()
        """Lines that say which weights of another model a new run has, and what of it starts afresh."""

    @property
    def step(self) -> int:
        """Steps done by the last checkpoint."""
        return 0 if self.last is None else self.last.state.step

    @property
    def state(self) -> TrainState | None:
        """What the last checkpoint holds besides tensors."""
        return None if self.last is None else self.last.state

    def load_weights(self, detector: Detector) -> bool:
        """Load the weights of the last checkpoint or of `store.init_from`.

        Returns:
            Whether the backbone needs no pre-trained weights of its own.
        """
        if self.last is not None:
            load_weights(detector, self.last.all("weights"), source=self.last.folder)
        elif self.job.store.init_from is not None:
            self._load_model(detector, self.job.store.init_from)
        whole = self.job.store.init_from is not None and not self.job.store.init_parts
        return self.last is not None or whole

    def load_optimizer(self, engine: Engine, ema: Ema) -> None:
        """Load AdamW's moments and the averaged weights of the last checkpoint."""
        if self.last is not None:
            engine.state.load_moments(self.last)
            ema.load(self.last, engine.state)

    def ledgers(self) -> Iterator[Tensor]:
        """Read, one by one, the ledgers that the ranks saved in the last checkpoint."""
        if self.last is not None:
            for name in self.last.names("ledger"):
                yield self.last.whole(f"ledger/{name}")

    def _find(self, run: RunFolder) -> Checkpoint | None:
        def newest() -> tuple[str, list[tuple[int, dict[str, float]]]] | None:
            found = run.newest_good(lambda why: print(f"skipping a checkpoint: {why}", flush=True))
            step = 0 if found is None else read_manifest(found).step
            run.begin(step)
            return None if found is None else (found.name, _evaluations(run, step))

        found = self.world.on_main(newest)
        if found is None:
            return None
        name, evaluations = found
        self.evaluations = dict(evaluations)
        saved = Checkpoint(run.folder.child(name), verified=True)
        changed = check_unchanged(saved, self.job, self.shards.digest)
        if changed and self.world.main:
            print(f"resuming with changed settings: {'; '.join(map(str, changed))}", flush=True)
        return saved

    def _load_model(self, detector: Detector, source: str) -> None:
        """Load a trained model into a detector that has the job's own initialisation."""
        address = self.world.on_main(lambda: self._locate(source))
        found, classes = origin.describe(address), self.shards.categories.names
        try:
            fit = check_fit(found.detector, found.classes.names, self.job.detector, classes, source=address)
        except CheckpointError as error:
            raise CheckpointError(f"--store.init-from: {error}") from error
        parts = self.job.store.init_parts
        fit.load(detector, origin.read_weights(address), source=address, parts=parts)
        taken = f"; of it {', '.join(parts)} alone" if parts else ""
        self.notes = (f"starting from {describe_weights(found)}{taken}", *fit.describe())
        if self.world.main:
            print(*self.notes, sep="\n", flush=True)

    def _locate(self, source: str) -> str:
        """Return the address of one model; where it is a checkpoint on this machine, verify every byte."""
        address = origin.locate(
            source, store=self.job.store.path, announce=lambda line: print(line, flush=True)
        )
        folder = open_folder(address)
        if folder.local is not None and folder.local.is_dir():
            verify(folder)
        return address


def _evaluations(run: RunFolder, step: int) -> list[tuple[int, dict[str, float]]]:
    """Return steps and metrics of the newest evaluated checkpoints up to `step`, the oldest first."""
    evaluated = [(at, dict(m.metrics)) for at, m in sorted(run.manifests().items()) if m.metrics]
    return [one for one in evaluated if one[0] <= step][-EVALUATIONS:]
