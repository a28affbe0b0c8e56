"""Converting an authors' checkpoint into a folder that training can start from."""

import dataclasses
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qdet.checkpoint import RunFolder, TrainState, open_folder, write_whole
from qdet.checkpoint.manifest import MANIFEST
from qdet.config import flatten
from qdet.convert.files import read
from qdet.convert.recognize import Recognized, recognize
from qdet.data.augment import AugmentConfig
from qdet.errors import CheckpointError, ConfigError


def convert(
    source: Path,
    folder: Path,
    *,
    all_classes: bool = False,
    dc5: bool = False,
    heads: int | None = None,
    about: Mapping[str, Any] | None = None,
) -> Recognized:
    """Convert `source` into the new checkpoint `folder`, for `--store.init-from`.

    Args:
        source: File of the detector's authors, or of transformers, or a folder of theirs.
        folder: Folder to write; it must not hold anything yet.
        all_classes: Keep all rows of heads that count in COCO's 91 ids.
        dc5: The backbone's last stage is dilated, which weights do not show.
        heads: Heads of every attention, which weights do not show.
        about: More to keep in the checkpoint beside the detector's settings, by dotted path.

    Raises:
        ConfigError: `folder` is taken.
        CheckpointError: `source` is not the checkpoint of a detector that is known here.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"--to {folder} is already there; give a new folder")
    _refuse_own(source)
    state, metadata = read(source)
    metadata = dataclasses.replace(metadata, dilated=metadata.dilated or dc5, heads=heads or metadata.heads)
    found = recognize(state, metadata, all_classes=all_classes)
    _write(found, folder, about or {})
    return found


def _refuse_own(source: Path) -> None:
    """Raise CheckpointError where `source` is a model of qdet, which needs no conversion."""
    beside = source.with_suffix(".json")
    own = source.suffix == ".safetensors" and beside.is_file() and b'"categories"' in beside.read_bytes()
    if own or (source / MANIFEST).is_file() or RunFolder(open_folder(source)).steps():
        raise CheckpointError(
            f"{source} is a model of qdet already; a job starts from it with "
            f"--store.init-from {shlex.quote(str(source))}"
        )


def report(found: Recognized, folder: Path) -> str:
    """Return what was converted and how to start a job from it."""
    parameters = sum(t.numel() for t in found.weights.values()) / 1e6
    return (
        f"{found.title}: {len(found.categories)} classes, {parameters:.1f} million numbers\n"
        f"detector={as_code(found.detector)}\n"
        f"wrote {folder}; a job of this detector starts from it with "
        f"--store.init-from {shlex.quote(str(folder))}"
    )


def as_code(config: Any) -> str:
    """Write a configuration as a job file would: its class with the settings that are not the default."""
    default = type(config)()
    changed = []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if value != getattr(default, field.name):
            shown = as_code(value) if dataclasses.is_dataclass(value) else repr(value)
            changed.append(f"{field.name}={shown}")
    return f"{type(config).__name__}({', '.join(changed)})"


def _augment(found: Recognized) -> AugmentConfig:
    """Return how the authors prepared images; those of DETR's family padded to the largest of a batch."""
    return AugmentConfig(pipeline=found.pipeline, pad_multiple=1 if found.pipeline == "detr" else 32)


def _write(found: Recognized, folder: Path, about: Mapping[str, Any]) -> None:
    """Write the state of a training that has not made a step yet."""
    settings = {f"detector.{path}": value for path, value in flatten(found.detector).items()} | {
        f"data.augment.{path}": value for path, value in flatten(_augment(found)).items()
    }
    tensors = {f"weights/{n}": t.float() if t.is_floating_point() else t for n, t in found.weights.items()}
    state = TrainState(
        step=0,
        updates=0,
        ema_updates=0,
        seed=0,
        batch_size=0,
        data_digest="",
        categories={"names": list(found.categories.names), "ids": list(found.categories.ids)},
    )
    if getattr(found.detector.backbone, "dilate_c5", False):
        settings["eval.batch_size"] = 1  # DC5's published AP is of images without padding
    job = {"name": found.title, "detector": type(found.detector).__name__} | settings | dict(about)
    write_whole(open_folder(folder), tensors, state=state, job=job)
