"""What a training puts into its checkpoints."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
from qdet.training.distributed import World
from qdet.training.ema import Ema
from qdet.training.sharded_state import MOMENTS, ShardedState


def pieces(state: ShardedState, ema: Ema, ledger: Shaped[Tensor, " n"], rank: int) -> list[Piece]:
    """Return this rank's part of all tensors.

    Args:
        state: Weights and moments.
        ema: The average.
        ledger: What this rank alone knows of the data it has seen.
        rank: This rank.
    """
    return [*state.pieces(), *ema.pieces(state), Piece(f"ledger/{rank:05d}", 0, ledger)]


@dataclass(frozen=True)
class Past:
    """What a run remembers of its steps besides what it has learned."""

    skipped: Sequence[int]
    """Steps that were not made."""
    losses: Sequence[float]
    """The last losses."""
    unreadable: Mapping[int, str]
    """Why images could not be read, by their ids."""


class Description:
    """Describes each checkpoint of one training (rank 0)."""

    def __init__(self, job: Job, world: World, shards: Dataset, attempt: str) -> None:
        self.job, self.world, self.shards, self.attempt = job, world, shards, attempt
        self._commit = git_commit()

    def of(
        self,
        step: int,
        state: ShardedState,
        ema: Ema,
        ledger: Shaped[Tensor, " n"],
        metrics: Mapping[str, float],
        past: Past,
    ) -> Contents:
        """Describe the state after `step` steps; `metrics` are those of an evaluation of this very state."""
        whole, trained = state.shapes, state.trained if state.updates else []
        kinds = {"weights": list(whole), "average": ema.names} | dict.fromkeys(MOMENTS, trained)
        shapes = {f"{kind}/{name}": whole[name] for kind, names in kinds.items() for name in names}
        shapes |= {f"ledger/{rank:05d}": list(ledger.shape) for rank in range(self.world.size)}
        return Contents(
            attempt=self.attempt,
            world_size=self.world.size,
            zero=self.job.train.zero,
            state=self._state(step, state.updates, ema.updates, past),
            job=settings(self.job),
            shapes=shapes,
            metrics=metrics,
        )

    def _state(self, step: int, updates: int, ema_updates: int, past: Past) -> TrainState:
        categories = self.shards.categories
        return TrainState(
            step=step,
            updates=updates,
            ema_updates=ema_updates,
            skipped=tuple(past.skipped),
            losses=tuple(past.losses),
            unreadable={image: mask(reason) for image, reason in past.unreadable.items()},
            seed=self.job.train.seed,
            batch_size=self.job.train.batch_size,
            data_digest=self.shards.digest,
            plan_version=PLAN_VERSION,
            categories={"names": list(categories.names), "ids": list(categories.ids)},
            git_commit=self._commit,
            versions={name: version(name) for name in ("torch", "deepspeed", "safetensors")},
        )


def settings(job: Job) -> dict[str, Any]:
    """Return the settings of a job, flat, without secrets, which a URL can hold."""
    flat = flatten(job)
    return {path: mask(v, key=path) if isinstance(v, str) else v for path, v in flat.items()}
