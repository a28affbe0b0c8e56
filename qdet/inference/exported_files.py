"""Models from exported .safetensors files and the JSON beside them."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from qdet.errors import CheckpointError, StorageError
from qdet.inference.build import build, describe_weights
from qdet.inference.description import Description
from qdet.inference.model import Model
from qdet.storage import Folder
from qdet.storage.file_kinds import misplaced_kind
from qdet.storage.urls import is_url

MODEL = "model.safetensors"
"""Name of a model in a folder of its own, as in MLflow."""
MAX_JSON = 16 * 2**20
"""Bytes of the largest description that is read."""
MAX_MODEL = 64 * 2**30
"""Bytes of the largest file of weights that is fetched."""
_CHUNK = 2**22


def load_safetensors(
    where: str, device: torch.device, precision: str, announce: Callable[[str], None]
) -> Model:
    """Load an exported file, at a path or URL, with the JSON file of the same name beside it.

    Raises:
        CheckpointError: One of the two is missing, damaged or not of this program.
    """
    description = describe_file(where)
    weights = read_file(where)
    announce(describe_weights(description))
    return build(description, weights, device, precision)


def describe_file(where: str) -> Description:
    """Read the description beside a .safetensors file at a path or URL, as `read_description` does."""
    path, mark, query = where.partition("?")
    return read_description(f"{path.removesuffix('.safetensors')}.json{mark}{query}", model=where)


def read_file(where: str) -> dict[str, Tensor]:
    """Read the tensors of a .safetensors file at a path or URL.

    Raises:
        CheckpointError: It is missing or damaged.
    """
    with on_this_machine(where) as file:
        try:
            return load_file(file)
        except (OSError, SafetensorError) as error:
            with file.open("rb") as opened:
                other = misplaced_kind(opened.read(64))
            if other is not None:
                raise CheckpointError(f"{where} is {other}") from error
            raise CheckpointError(f"{where} cannot be read as safetensors: {error}") from error


def read_description(where: str, *, model: str) -> Description:
    """Read the JSON file that belongs to `model`.

    Raises:
        CheckpointError: It is missing, too large, or describes no model.
    """
    folder, name = _holding(where)
    try:
        size = folder.size(name)
        if size is None:
            raise CheckpointError(
                f"{model} needs the JSON file that was written beside it, {name}: its classes and settings"
            )
        if size > MAX_JSON:
            raise CheckpointError(f"{where} has {size:,} bytes: it is no description of a model")
        return Description.from_json(folder.read(name), source=model)
    except OSError as error:
        raise CheckpointError(f"{where} cannot be read: {error}") from error


@contextmanager
def on_this_machine(where: str) -> Iterator[Path]:
    """Give a file as a path here; one behind a URL is fetched for as long as the block lasts.

    Raises:
        CheckpointError: It is not there, too large, or cannot be read.
    """
    folder, name = _holding(where)
    try:
        size = folder.size(name)
        if size is None:
            raise CheckpointError(f"{where} is not there")
        if folder.local is not None:
            yield folder.local / name
            return
        if size > MAX_MODEL:
            raise CheckpointError(f"{where} has {size:,} bytes, more than a model may have")
        with tempfile.TemporaryDirectory(prefix="qdet-model-") as here:
            _fetch(folder, name, size, Path(here) / "model")
            yield Path(here) / "model"
    except StorageError as error:
        raise CheckpointError(str(error)) from error


def _fetch(folder: Folder, name: str, size: int, to: Path) -> None:
    with folder.reader(name) as source, to.open("wb") as file:
        while size >= 0 and (chunk := source.read(_CHUNK)):
            size -= len(chunk)
            file.write(chunk)
    if size:
        raise CheckpointError(f"{folder}/{name} is not as long as its server says; try again")


def _holding(where: str) -> tuple[Folder, str]:
    try:
        return Folder.holding(where if is_url(where) else Path(where).expanduser())
    except StorageError as error:
        raise CheckpointError(str(error)) from error
