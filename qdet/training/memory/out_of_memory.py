"""A device out of memory: which part of a step asked for it, with which batch, and what to change."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

from qdet.errors import ConfigError
from qdet.job import TrainConfig
from qdet.types import Batch

Part = Literal["forward pass", "matching and loss", "backward pass", "optimizer update"]
ON_CPU = "DefaultCPUAllocator"
"""What torch's message begins with where the system gives it no memory."""


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether `error` is an allocation that failed, on a GPU or on a CPU."""
    return isinstance(error, torch.OutOfMemoryError) or ON_CPU in str(error)


@contextmanager
def explain_out_of_memory(part: Part, batch: Batch, train: TrainConfig) -> Iterator[None]:
    """Turn a failed allocation inside a `with` into one line that says what to change.

    Args:
        part: What runs inside.
        batch: The micro-batch that it runs on.
        train: The settings that decide how much is needed.

    Raises:
        ConfigError: An allocation failed.
    """
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise ConfigError(
            f"out of memory in the {part} {_sizes(batch)}: {_remedy(part, batch, train)}"
        ) from error


def _sizes(batch: Batch) -> str:
    count, _, height, width = batch.images.shape
    images, objects = "image" if count == 1 else "images", sum(batch.targets.counts)
    return f"of {count} {images} padded to {height} x {width}, with {objects} objects (the most in one: " + (
        f"{max(batch.targets.counts, default=0)})"
    )


def _remedy(part: Part, batch: Batch, train: TrainConfig) -> str:
    found: list[str] = []
    if part == "optimizer update":
        found.append("share the optimizer's state over several workers with --train.zero 2")
    elif len(batch) > 1 and not train.canonical:
        more = f"hold fewer images at a time with --train.accumulation {2 * train.accumulation}"
        found.append(more if train.auto_batch else f"give --train.auto-batch, or {more}")
    if not train.activation_checkpointing:
        found.append("recompute activations with --train.activation-checkpointing")
    found.append("take smaller images with --data.augment.max-size")
    return "; or ".join(found)
