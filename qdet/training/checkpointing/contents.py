"""What training puts into its checkpoints."""

from collections.abc import Mapping
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
from qdet.training.sharded_state import MOMENTS, ShardedState


def pieces(state: ShardedState, ema: Ema, ledger: Shaped[Tensor, " n"], rank: int) -> list[Piece]:
    """Return this rank's part of all tensors.

    Args:
        state: Weights and moments.
        ema: The average.
        ledger: Which images this rank has trained on.
        rank: This rank.
    """
    return [*state.pieces(), *ema.pieces(state), Piece(f"ledger/{rank:05d}", 0, ledger)]


class Checkpoints:
    """The checkpoints of one training: describes them, and has `writer` write them."""

    def __init__(self, job: Job, world: World, shards: Dataset, writer: CheckpointWriter) -> None:
        self.job, self.world, self.shards, self.writer = job, world, shards, writer
        self._commit = git_commit()

    def save(
        self,
        step: int,
        state: ShardedState,
        ema: Ema,
        *,
        ledger: Shaped[Tensor, " n"],
        metrics: Mapping[str, float],
        observed: Mapping[str, Any],
    ) -> float:
        """Start writing the state after `step` steps; return the seconds that training waited. Collective.

        Args:
            step: Steps done.
            state: Weights and moments.
            ema: The average.
            ledger: Which images this rank has trained on.
            metrics: Those of an evaluation of this very state; empty without one.
            observed: Fields of `TrainState` that the observers of the step exchange keep.

        Raises:
            CheckpointError: The previous two checkpoints could not be written.
        """

        def contents() -> Contents:
            return self._contents(step, state, ema, ledger=ledger, metrics=metrics, observed=observed)

        return self.writer.save(step, lambda: pieces(state, ema, ledger, self.world.rank), contents)

    def rehearse(
        self,
        step: int,
        state: ShardedState,
        ema: Ema,
        *,
        ledger: Shaped[Tensor, " n"],
        observed: Mapping[str, Any],
    ) -> None:
        """Write, check and remove a checkpoint without its large tensors. Collective; arguments as of `save`.

        Raises:
            CheckpointError: It cannot be written.
        """

        def contents() -> Contents:
            return self._contents(step, state, ema, ledger=ledger, metrics={}, observed=observed)

        smallest = min(pieces(state, ema, ledger, self.world.rank), key=lambda piece: piece.nbytes)
        rehearse(self.writer, smallest, contents)

    def _contents(
        self,
        step: int,
        state: ShardedState,
        ema: Ema,
        *,
        ledger: Shaped[Tensor, " n"],
        metrics: Mapping[str, float],
        observed: Mapping[str, Any],
    ) -> Contents:
        return Contents(
            attempt=self.writer.attempt,
            world_size=self.world.size,
            zero=self.job.train.zero,
            state=self._state(step, state.updates, ema.updates, observed),
            job=settings(self.job),
            shapes=self._shapes(state, ema, ledger),
            metrics=metrics,
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
