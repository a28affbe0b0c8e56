"""What a checkpoint holds, in a format of its own that knows neither ranks nor ZeRO stages.

    weights.safetensors   parameters and buffers, fp32, by name
    average.safetensors   the same with averaged parameters, where the job keeps an average
    moments.safetensors   AdamW's moments, `exp_avg/NAME` and `exp_avg_sq/NAME`
    state.json            where the run stands, and what must not change when it goes on
    job.json              the settings, flat
    manifest.json         size and sha256 of every file above; written last: without it there is no checkpoint

DeepSpeed's own checkpoints are tied to the number of ranks and the ZeRO stage, and their `latest` file is
written before all ranks are done; these can be read by any number of workers at any stage.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from qdet.errors import CheckpointError

FORMAT = 1
MANIFEST = "manifest.json"


@dataclass(frozen=True, kw_only=True)
class TrainState:
    """Where a run stands, and what must stay the same for the rest of it to mean anything."""

    step: int
    """Optimizer steps done; data order, augmentation, learning rate and random numbers follow from it."""
    ema_updates: int
    seed: int
    batch_size: int
    data_digest: str
    """Digest of the training shards."""
    categories: dict[str, Any]
    """Class names and original ids, in order of label."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Everything needed to go on, on the CPU."""

    weights: dict[str, Tensor]
    moments: dict[str, Tensor]
    state: TrainState
    job: Mapping[str, Any]
    average: dict[str, Tensor] | None = None


def write_new(checkpoint: Checkpoint) -> Path:
    """Write `checkpoint` into a temporary folder of its own, which is gone again if that fails."""
    folder = Path(tempfile.mkdtemp(prefix="qdet_checkpoint_"))
    try:
        write(folder, checkpoint)
    except CheckpointError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return folder


def write(folder: Path, checkpoint: Checkpoint) -> None:
    """Write `checkpoint` into `folder`, its manifest last.

    Raises:
        CheckpointError: The disk is full or cannot be written; the manifest is then missing, so that nobody
            takes the folder for a checkpoint.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(_plain(checkpoint.weights), folder / "weights.safetensors")
        if checkpoint.average is not None:
            save_file(_plain(checkpoint.average), folder / "average.safetensors")
        save_file(_plain(checkpoint.moments), folder / "moments.safetensors")
        _write_json(folder / "state.json", asdict(checkpoint.state))
        _write_json(folder / "job.json", dict(checkpoint.job))
        files = {p.name: _fingerprint(p) for p in sorted(folder.iterdir()) if p.name != MANIFEST}
        _write_json(folder / MANIFEST, {"format": FORMAT, "files": files})
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"cannot write checkpoint {folder}: {error}. The checkpoints before it are untouched; free some "
            "space or give another --store.path, then go on with --store.resume"
        ) from error


def export(folder: Path, checkpoint: Checkpoint) -> None:
    """Write what using the detector needs: weights (averaged where there is an average), job and classes."""
    save_file(_plain(checkpoint.average or checkpoint.weights), folder / "model.safetensors")
    _write_json(folder / "job.json", dict(checkpoint.job))
    _write_json(folder / "categories.json", checkpoint.state.categories)


def read(folder: Path) -> Checkpoint:
    """Read a checkpoint after checking every byte of it against its manifest.

    Raises:
        CheckpointError: It is missing, incomplete, damaged or of a newer format.
    """
    verify(folder)
    average = folder / "average.safetensors"
    return Checkpoint(
        weights=load_file(folder / "weights.safetensors"),
        average=load_file(average) if average.exists() else None,
        moments=load_file(folder / "moments.safetensors"),
        state=TrainState(**json.loads((folder / "state.json").read_text())),
        job=json.loads((folder / "job.json").read_text()),
    )


def verify(folder: Path) -> None:
    """Raise a CheckpointError unless every file of `folder` is as its manifest says."""
    manifest = folder / MANIFEST
    if not manifest.is_file():
        raise CheckpointError(f"{folder} is not a complete checkpoint: it has no {MANIFEST}")
    listed = json.loads(manifest.read_text())
    if listed["format"] != FORMAT:
        raise CheckpointError(f"{manifest} has format {listed['format']}, this version reads {FORMAT}")
    for name, expected in listed["files"].items():
        file = folder / name
        if not file.is_file():
            raise CheckpointError(f"{file} is missing although {MANIFEST} lists it")
        if _fingerprint(file) != expected:
            raise CheckpointError(f"{file} is damaged: its size or sha256 is not what {MANIFEST} says")


def is_complete(folder: Path) -> bool:
    """True where `folder` holds an undamaged checkpoint."""
    try:
        verify(folder)
    except (CheckpointError, json.JSONDecodeError, KeyError):
        return False
    return True


def check_start(start: Checkpoint, *, detector: str, classes: Sequence[str], source: Path) -> None:
    """Raise a CheckpointError unless a job of this detector and these classes can start from `start`.

    Sizes are left to `load_weights`, which compares every tensor.
    """
    theirs, names = str(start.job.get("detector")), start.state.categories["names"]
    if theirs != detector:
        raise CheckpointError(f"--store.init-from {source} is of {theirs}, the job's detector of {detector}")
    if len(names) != len(classes):
        raise CheckpointError(
            f"--store.init-from {source} knows {_listed(names)}, but the shards have {_listed(classes)}"
        )


def load_weights(module: nn.Module, weights: Mapping[str, Tensor], *, source: Path) -> None:
    """Copy `weights` into `module`.

    Raises:
        CheckpointError: Names or shapes differ; the message lists them.
    """
    have = module.state_dict()
    missing = sorted(have.keys() - weights.keys())
    unknown = sorted(weights.keys() - have.keys())
    shapes = [
        f"{name} is {tuple(weights[name].shape)} there and {tuple(have[name].shape)} here"
        for name in sorted(have.keys() & weights.keys())
        if have[name].shape != weights[name].shape
    ]
    problems = [
        f"{len(names)} {what}, such as {'; '.join(names[:3])}"
        for what, names in (("are missing", missing), ("are unknown", unknown), ("differ in shape", shapes))
        if names
    ]
    if problems:
        raise CheckpointError(f"{source} is a checkpoint of another model: tensors {', '.join(problems)}")
    module.load_state_dict(weights)


def _plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.contiguous() for name, tensor in tensors.items()}


def _listed(names: Sequence[str]) -> str:
    few = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    return f"{len(names)} classes ({few})"


def _write_json(path: Path, content: Any) -> None:
    with path.open("w") as file:
        json.dump(content, file, indent=1, default=str)
        file.flush()
        os.fsync(file.fileno())


def _fingerprint(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
