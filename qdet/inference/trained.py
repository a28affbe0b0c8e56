"""Models from the folders that training writes: a run's best checkpoint, or a given one."""

import shlex
from collections.abc import Callable

import torch

from qdet.checkpoint import Checkpoint, RunFolder, verify
from qdet.checkpoint.manifest import MANIFEST
from qdet.checkpoint.run_folder import best_first
from qdet.errors import CheckpointError, StorageError
from qdet.inference.build import build, describe_weights
from qdet.inference.description import Description
from qdet.inference.exported_files import MODEL, load_safetensors
from qdet.inference.model import Model
from qdet.storage import Folder


def load_folder(
    folder: Folder,
    device: torch.device,
    precision: str,
    *,
    averaged: bool,
    announce: Callable[[str], None],
) -> Model:
    """Load from the folder of a checkpoint, of a run, or of an exported model.

    Raises:
        CheckpointError: It holds none of them, or no intact one.
    """
    try:
        if folder.size(MODEL) is not None:
            return load_safetensors(f"{folder.url}/{MODEL}", device, precision, announce)
        found = folder if folder.size(MANIFEST) is not None else best_checkpoint(RunFolder(folder), announce)
    except StorageError as error:
        raise CheckpointError(str(error)) from error
    saved = Checkpoint(found, verified=False)
    description = Description.of_checkpoint(saved, saved.manifest, averaged=averaged)
    announce(describe_weights(description))
    return build(description, saved.model(averaged=averaged), device, precision)


def best_checkpoint(run: RunFolder, announce: Callable[[str], None]) -> Folder:
    """Return a run's intact checkpoint with the best val/AP, or the newest where none was evaluated.

    Raises:
        CheckpointError: There is none.
    """
    manifests = run.manifests(lambda why: announce(f"passed over: {why}"))
    if not manifests:
        raise CheckpointError(_explain_no_checkpoint(run))
    ranked = best_first(manifests)
    for step in ranked:
        try:
            verify(run.at(step))
        except CheckpointError as error:
            announce(f"passed over: {error}")
            continue
        return run.at(step)
    raise CheckpointError(
        f"none of the {len(ranked)} checkpoints of {run.folder} is intact; restore one from a backup"
    )


def _explain_no_checkpoint(run: RunFolder) -> str:
    if run.steps():
        return f"{run.folder} has no complete checkpoint yet; wait for the first, or give another run"
    inside = [name for name in run.folder.folders() if RunFolder(run.folder.child(name)).steps()]
    if inside:
        return f"{run.folder} holds runs, not a model; give one of them, such as {run.folder}/{inside[-1]}"
    if run.folder.size("config.json") is not None:
        convert = shlex.join(["qdet", "convert", str(run.folder), "--to", "NEW_FOLDER"])
        return f"{run.folder} was not written by qdet; convert it: {convert}"
    return (
        f"{run.folder} holds no model: neither folders like step_000500, as a run has, nor a {MANIFEST}, as "
        f"a checkpoint has, nor a {MODEL}"
    )
