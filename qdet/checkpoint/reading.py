"""Read a checkpoint: whole tensors or any part of one, whichever ranks wrote the pieces."""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Shaped
from safetensors import SafetensorError, safe_open
from torch import Tensor

from qdet.checkpoint.manifest import copy_and_check, read_manifest, verify
from qdet.checkpoint.model_file import describe, write_model
from qdet.checkpoint.pieces import check_cover, name_and_start
from qdet.checkpoint.run_folder import RunFolder
from qdet.checkpoint.state import TrainState
from qdet.errors import CheckpointError, NewerCheckpointError
from qdet.storage import Folder
from qdet.storage.parsing import parse_json
from qdet.storage.scratch import ScratchFolder

DOWNLOADED = "qdet-checkpoint-"
"""How the temporary folders begin that hold checkpoints from behind a URL."""


class Checkpoint:
    """An open checkpoint. Tensors are named by kind and name, such as `weights/decoder.query`.

    Kinds are `weights` (parameters and buffers), `average` (of the trained parameters), `exp_avg` and
    `exp_avg_sq` (AdamW's moments), and `ledger`.

    Args:
        folder: Its folder. Files behind a URL are downloaded first.
        verified: The caller has compared the files with the manifest. Downloaded files are compared in any
            case.

    Raises:
        CheckpointError: A file or a part of a tensor is missing, damaged, or there twice.
    """

    def __init__(self, folder: Folder, *, verified: bool = False) -> None:
        self.folder = folder
        if folder.local is not None and not verified:
            verify(folder)
        self.manifest = read_manifest(folder)
        self._downloaded: ScratchFolder | None = None
        here = folder.local or self._download()
        state, job, shapes = (
            (here / self.manifest.file(role)).read_bytes() for role in ("state", "job", "tensors")
        )
        self.state = parse_state(state, folder, step=self.manifest.step)
        self.job: dict[str, Any] = parse_object(job, folder, "job")
        """The flat settings."""
        self.shapes = _parse_shapes(shapes, folder)
        self._pieces: dict[str, list[tuple[range, Any, str]]] = {name: [] for name in self.shapes}
        self._open_files([here / name for name in self.manifest.rank_files])

    def names(self, kind: str) -> list[str]:
        """Return the names of all tensors of one kind."""
        return [name.removeprefix(f"{kind}/") for name in self.shapes if name.startswith(f"{kind}/")]

    def part(self, name: str, share: range) -> Shaped[Tensor, " n"]:
        """Return some elements of a flattened tensor."""
        found = []
        for span, file, key in self._pieces[name]:
            start, stop = max(span.start, share.start), min(span.stop, share.stop)
            if start < stop:
                found.append(file.get_slice(key)[start - span.start : stop - span.start])
        return torch.cat(found) if found else torch.empty(0)

    def whole(self, name: str) -> Shaped[Tensor, "..."]:
        """Return a tensor in its shape.

        Raises:
            CheckpointError: The checkpoint does not have it.
        """
        if name not in self.shapes:
            raise CheckpointError(f"{self.folder} has no tensor {name}")
        shape = self.shapes[name]
        return self.part(name, range(math.prod(shape))).reshape(shape)

    def all(self, kind: str) -> dict[str, Tensor]:
        """Return all whole tensors of one kind by name."""
        return {name: self.whole(f"{kind}/{name}") for name in self.names(kind)}

    def model(self, *, averaged: bool = True) -> dict[str, Tensor]:
        """Return parameters and buffers; averaged parameters if there are any and `averaged`."""
        weights = self.all("weights")
        return weights | self.all("average") if averaged else weights

    def _open_files(self, paths: Sequence[Path]) -> None:
        for path in paths:
            try:
                file: Any = safe_open(path, framework="pt")
            except (OSError, SafetensorError) as error:
                raise CheckpointError(f"{path} cannot be read: {error}") from error
            for key in file.keys():  # noqa: SIM118  (a safetensors file is not a dictionary)
                name, start = name_and_start(key)
                shape = file.get_slice(key).get_shape()
                if start is None or len(shape) != 1:
                    raise CheckpointError(f"{path} holds {key[:80]!r}, which is no piece of a tensor")
                length = shape[0]
                if name not in self._pieces:
                    raise CheckpointError(f"{path} holds a piece of {name}, but there is no such tensor")
                self._pieces[name].append((range(start, start + length), file, key))
        for name, pieces in self._pieces.items():
            pieces.sort(key=lambda piece: piece[0].start)
            check_cover(name, math.prod(self.shapes[name]), (p[0] for p in pieces), source=self.folder)

    def _download(self) -> Path:
        """Copy every file to a temporary folder that lives as long as this object."""
        self._downloaded = ScratchFolder(DOWNLOADED)
        here = self._downloaded.path
        for name, expected in self.manifest.files.items():
            with (here / name).open("wb") as to:
                copy_and_check(self.folder, name, expected, to)
        return here


def export(saved: Checkpoint, file: Path, *, averaged: bool = True) -> Path:
    """Write parameters and buffers to `file`, and job, classes and step to the JSON file beside it.

    Args:
        saved: The checkpoint.
        file: Name of the new file, ending in .safetensors.
        averaged: Use the averaged parameters if the checkpoint has any.

    Returns:
        The JSON file.

    Raises:
        CheckpointError: It cannot be written, or its name ends otherwise.
    """
    about = describe(
        job=saved.job,
        categories=saved.state.categories,
        step=saved.state.step,
        averaged=averaged and bool(saved.names("average")),
        metrics=saved.manifest.metrics,
    )
    return write_model(file, saved.model(averaged=averaged), about)


@dataclass(frozen=True)
class Peek:
    """A checkpoint's description."""

    folder: Folder
    state: TrainState
    job: dict[str, Any]
    """The flat settings."""


def peek(folder: Folder) -> Peek:
    """Read a checkpoint's description.

    Raises:
        CheckpointError: A file of it is missing or damaged.
    """
    manifest = read_manifest(folder)

    def content(role: str) -> bytes:
        name, buffer = manifest.file(role), io.BytesIO()
        copy_and_check(folder, name, manifest.files[name], buffer)
        return buffer.getvalue()

    state = parse_state(content("state"), folder, step=manifest.step)
    return Peek(folder, state, parse_object(content("job"), folder, "job"))


def parse_object(text: bytes, folder: Folder, role: str) -> dict[str, Any]:
    """Return the JSON object of one of a checkpoint's files.

    Raises:
        CheckpointError: It is something else.
    """
    try:
        found = parse_json(text)
        if isinstance(found, dict):
            return found
        said = f"it holds {type(found).__name__}"
    except (ValueError, RecursionError) as error:
        said = str(error)[:200]
    raise CheckpointError(f"{folder}: its {role} file holds no settings by name: {said}")


def parse_state(text: bytes, folder: Folder, *, step: int) -> TrainState:
    """Return the training state in the file of the checkpoint after `step` steps.

    Raises:
        NewerCheckpointError: A later version of qdet wrote it.
        CheckpointError: It is of another version, or of something else.
    """
    content = parse_object(text, folder, "state")
    try:
        state = TrainState.from_json(content)
        if state.step != step:
            raise ValueError(f"it is of step {state.step}, and the checkpoint of step {step}")
        return state
    except ValueError as error:
        if unknown := TrainState.unknown_fields(content):
            raise NewerCheckpointError(
                f"{folder} was written by a later version of qdet: its state has {unknown[0][:80]!r}, which "
                "this one does not know. Use the version that wrote it, or a later one"
            ) from error
        raise CheckpointError(
            f"{folder}: its state is not as this version of qdet writes it ({str(error)[:200]}); "
            "read it with the version that wrote it"
        ) from error


def _parse_shapes(text: bytes, folder: Folder) -> dict[str, tuple[int, ...]]:
    shapes = {}
    for name, shape in parse_object(text, folder, "tensors").items():
        if not (isinstance(shape, list) and all(isinstance(n, int) and n >= 0 for n in shape)):
            raise CheckpointError(
                f"{folder}: its tensors file says that {name[:80]!r} has shape {shape!r:.80}"
            )
        shapes[name] = tuple(shape)
    return shapes


def newest(run: RunFolder) -> Peek | None:
    """Return the description of a run's newest checkpoint with an intact one; None if there is none.

    Raises:
        NewerCheckpointError: A later version of qdet wrote it.
    """
    for step in reversed(run.steps()):
        try:
            return peek(run.at(step))
        except NewerCheckpointError:
            raise
        except CheckpointError:
            continue
    return None
