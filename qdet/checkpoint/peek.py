"""What a checkpoint says of itself, without its tensors: a few kilobytes of JSON."""

import io
import json
from dataclasses import dataclass
from typing import Any

from qdet.checkpoint.manifest import copy_checked, read_manifest
from qdet.checkpoint.run_folder import RunFolder
from qdet.checkpoint.state import TrainState
from qdet.errors import CheckpointError
from qdet.storage.folder import Folder


@dataclass(frozen=True)
class Peek:
    """A checkpoint's description."""

    folder: Folder
    state: TrainState
    job: dict[str, Any]
    """The settings, flat."""


def peek(folder: Folder) -> Peek:
    """Read a checkpoint's description.

    Raises:
        CheckpointError: A file of it is missing or damaged.
    """
    manifest = read_manifest(folder)

    def content(role: str) -> Any:
        name, held = manifest.file(role), io.BytesIO()
        if name not in manifest.files:
            raise CheckpointError(f"{folder} does not say its {role}")
        copy_checked(folder, name, manifest.files[name], held)
        return json.loads(held.getvalue())

    return Peek(folder, TrainState.from_json(content("state")), content("job"))


def newest(run: RunFolder) -> Peek | None:
    """Return the description of a run's newest checkpoint that has a whole one; None where none has."""
    for step in reversed(run.steps()):
        try:
            return peek(run.at(step))
        except CheckpointError:
            continue
    return None
