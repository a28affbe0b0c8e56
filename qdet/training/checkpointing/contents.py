"""What training puts into its checkpoints."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from typing import Any

from jaxtyping import Shaped
from torch import Tensor

from qdet.checkpoint import Piece, TrainState
from qdet.checkpoint.writing import Contents
from qdet.config import flatten
from qdet.data.plan.epoch import PLAN_VERSION
from qdet.data.shards.protocol import Dataset
from qdet.job import Job
from qdet.masking import mask
from qdet.tracking import git_commit
from qdet.training.checkpointing.rehearsal import rehearse
from qdet.training.checkpointing.save import CheckpointWriter
from qdet.training.distributed import World
from qdet.training.ema import Ema
from qdet.training.engine.sharded_state import MOMENTS, ShardedState


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """What a checkpoint is made of."""

    step: int
    """Steps done."""
    state: ShardedState
    """Weights and moments."""
    ema: Ema
    """The average."""
    ledger: Shaped[Tensor, " n"]
    """Which images this rank has trained on."""
    observed: Mapping[str, Any]
    """Fields of `TrainState` that the observers of the step exchange keep."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Those of an evaluation of this very state; empty without one."""

    def pieces(self, rank: int) -> list[Piece]:
        """Return what this rank, number `rank`, writes of it."""
        ledger = Piece(f"ledger/{rank:05d}", 0, self.ledger)
        return [*self.state.pieces(), *self.ema.pieces(self.state), ledger]


class Checkpoints:
    """The checkpoints of one training: describes them, and has `writer` write them."""

    def __init__(self, job: Job, world: World, shards: Dataset, writer: CheckpointWriter) -> None:
        self.job, self.world, self.shards, self.writer = job, world, shards, writer
        self._commit = git_commit()

    def save(self, snapshot: Snapshot) -> float:
        """Start writing a checkpoint; return the seconds that training waited. Collective.

        Raises:
            CheckpointError: The previous two checkpoints could not be written.
        """
        mine = partial(snapshot.pieces, self.world.rank)
        return self.writer.save(snapshot.step, mine, partial(self._contents, snapshot))

    def rehearse(self, snapshot: Snapshot) -> None:
        """Write, check and remove a checkpoint without its large tensors. Collective.

        Raises:
            CheckpointError: It cannot be written.
        """
        smallest = min(snapshot.pieces(self.world.rank), key=lambda piece: piece.nbytes)
        rehearse(self.writer, smallest, partial(self._contents, snapshot))

    def _contents(self, snapshot: Snapshot) -> Contents:
        state, ema = snapshot.state, snapshot.ema
        return Contents(
            attempt=self.writer.attempt,
            world_size=self.world.size,
            zero=int(self.job.train.zero),  # settled by now
            state=self._state(snapshot.step, state.updates, ema.updates, snapshot.observed),
            job=settings(self.job),
            shapes=self._shapes(state, ema, snapshot.ledger),
            metrics=snapshot.metrics,
        )

    def _shapes(self, state: ShardedState, ema: Ema, ledger: Shaped[Tensor, " n"]) -> dict[str, list[int]]:
        whole, trained = state.shapes, state.trained if state.updates else []
        kinds = {"weights": list(whole), "average": ema.names} | dict.fromkeys(MOMENTS, trained)
        shapes = {f"{kind}/{name}": whole[name] for kind, names in kinds.items() for name in names}
        return shapes | {f"ledger/{rank:05d}": list(ledger.shape) for rank in range(self.world.size)}

    def _state(self, step: int, updates: int, ema_updates: int, observed: Mapping[str, Any]) -> TrainState:
        categories = self.shards.categories
        return TrainState(
            step=step,
            updates=updates,
            ema_updates=ema_updates,
            **observed,
            seed=self.job.train.seed,
            batch_size=self.job.train.batch_size,
            data_digest=self.shards.digest,
            plan_version=PLAN_VERSION,
            categories={"names": list(categories.names), "ids": list(categories.ids)},
            git_commit=self._commit,
            versions={name: version(name) for name in ("torch", "deepspeed", "safetensors")},
        )


def settings(job: Job) -> dict[str, Any]:
    """Return the settings of a job, flat, without secrets, which URLs may contain."""
    flat = flatten(job)
    return {path: mask(v, key=path) if isinstance(v, str) else v for path, v in flat.items()}
