"""A non-finite training step in one file: what one worker computed it from.

    weights/NAME            parameters and buffers before the step
    batch0/images, ...      the micro-batches of the worker, as they were read

The header of the safetensors file holds the rest as JSON: the job, the step, the seed of its random numbers,
the divisors of the loss. `qdet replay FILE` runs it again.
"""

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from qdet.errors import CheckpointError, StorageError
from qdet.storage import Folder
from qdet.storage.parsing import parse_json_object
from qdet.types import Batch, Noise, Targets

KEY = "qdet_bad_step"
FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What describes a bad step besides its tensors."""

    step: int
    """Steps done before it."""
    rank: int
    world_size: int
    random_seed: int
    """What torch's generator was seeded with for this step and rank."""
    progress: float
    """Share of the training that was done."""
    divisors: Mapping[str, float]
    """What the loss is divided by, as arguments of the loss."""
    classes: int
    job: Mapping[str, Any]
    """The settings, flat."""
    image_ids: Sequence[Sequence[int]]
    """The dataset's ids of the images of each micro-batch."""


@dataclass(frozen=True, kw_only=True)
class BadStep:
    """A bad step in full."""

    facts: Facts
    weights: Mapping[str, Tensor]
    batches: Sequence[Batch]


def file_name(step: int, rank: int) -> str:
    """Return the file name of the step after `step` others; it counts steps from 1."""
    return f"bad_step_{step + 1:06d}_rank_{rank}.safetensors"


def to_bytes(bad: BadStep) -> bytes:
    """Return the content of the file."""
    tensors = {f"weights/{name}": tensor for name, tensor in bad.weights.items()}
    for i, batch in enumerate(bad.batches):
        tensors |= {f"batch{i}/{name}": tensor for name, tensor in tensors_of(batch).items()}
    header = json.dumps({"format": FORMAT} | asdict(bad.facts), default=str)
    # Clones: safetensors refuses tensors that share memory, as tied weights do.
    return save({name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}, {KEY: header})


def read(address: str | Path) -> BadStep:
    """Read a file that training wrote, at a path or a URL.

    Raises:
        CheckpointError: It is missing, damaged or not a bad step.
    """
    if "://" not in str(address):
        return _read(Path(address))
    with tempfile.TemporaryDirectory() as here:
        try:
            folder, name = Folder.holding(address)
            path = Path(here) / name
            path.write_bytes(folder.read(name))
        except StorageError as error:
            raise CheckpointError(str(error)) from error
        except OSError as error:
            raise CheckpointError(f"{address} cannot be read: {error}") from error
        return _read(path)


def _read(path: Path) -> BadStep:
    try:
        with safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get(KEY)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dictionary)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if header is None:
        raise CheckpointError(f"{path} is not a bad step of qdet: give a file named bad_step_*.safetensors")
    try:
        facts = parse_json_object(header)
        if facts.pop("format", None) != FORMAT:
            raise CheckpointError(f"{path} is of another version of qdet; this one reads format {FORMAT}")
        found = msgspec.convert(facts, Facts)
        batches = [batch_of(_below(tensors, f"batch{i}/")) for i in range(len(found.image_ids))]
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path} does not describe a step of this version of qdet: {error}") from error
    return BadStep(facts=found, weights=_below(tensors, "weights/"), batches=batches)


def tensors_of(batch: Batch) -> dict[str, Tensor]:
    """Return a batch as tensors by name; substitutes are left out."""
    own = {f.name: value for f in fields(batch) if isinstance(value := getattr(batch, f.name), Tensor)}
    targets = batch.targets
    packed = {
        "boxes_xyxy": targets.boxes_xyxy,
        "labels": targets.labels,
        "counts": torch.tensor(targets.counts, dtype=torch.int64),
    }
    return own | packed | ({} if batch.noise is None else _tensors_of_noise(batch.noise))


def _tensors_of_noise(noise: Noise) -> dict[str, Tensor]:
    return {
        "noise_numbers": noise.numbers,
        "noise_objects": torch.tensor([o for each in noise.objects for o in each], dtype=torch.int64),
        "noise_counts": torch.tensor([len(each) for each in noise.objects], dtype=torch.int64),
        "noise_repetitions": torch.tensor(noise.repetitions, dtype=torch.int64),
    }


def batch_of(tensors: dict[str, Tensor]) -> Batch:
    """Return a batch from what `tensors_of` returned, which is emptied."""
    boxes, labels, counts = (tensors.pop(name) for name in ("boxes_xyxy", "labels", "counts"))
    noise = _noise_of(tensors) if "noise_numbers" in tensors else None
    own: dict[str, Any] = tensors
    return Batch(**own, targets=Targets(boxes, labels, tuple(counts.tolist())), noise=noise)


def _noise_of(tensors: dict[str, Tensor]) -> Noise:
    numbers, objects, counts, repetitions = (
        tensors.pop(f"noise_{name}") for name in ("numbers", "objects", "counts", "repetitions")
    )
    by_image = objects.split(counts.tolist())
    return Noise(numbers, tuple(tuple(o.tolist()) for o in by_image), tuple(repetitions.tolist()))


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
