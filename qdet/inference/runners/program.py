"""Programs of torch.export (.pt2) that qdet wrote.

`torch.export.load` unpickles parts of such a file, and unpickling can run code: a .pt2 is as trusted as a
Python script. Hence it is loaded from local paths only, and only after its metadata, which are plain JSON in
a zip file, say that it is of qdet. The metadata guard against mistakes, not against forgery.
"""

import zipfile
from pathlib import Path

import torch
from torch import Tensor
from torch.export.passes import move_to_device_pass

from qdet.errors import CheckpointError
from qdet.inference.exported_files import MAX_JSON
from qdet.inference.model import Model
from qdet.inference.runners.graphs import METADATA, GraphRunner, Session, unpack
from qdet.storage.urls import is_url

EXTRA = f"{METADATA}.json"
"""Name of the metadata among a program's extra files."""


def load_program(where: str, device: torch.device) -> Model:
    """Load a model from a .pt2 file of this machine; only from a source that you trust.

    Raises:
        CheckpointError: It is a URL, not there, damaged, or not from qdet.
    """
    if is_url(where):
        raise CheckpointError(
            f"{where}: loading a .pt2 can run code, so qdet loads only local ones; download it if you trust "
            "it, or use a .onnx or .safetensors"
        )
    file = Path(where).expanduser()
    description, form = unpack(_read_metadata(file), where)
    runner = GraphRunner.of(open_program(file, device), form, description, device)
    return Model(description, runner)


def open_program(file: Path, device: torch.device) -> Session:
    """Load a program as a function of tensors on `device`.

    Raises:
        CheckpointError: torch cannot load it.
    """
    try:
        program = torch.export.load(file)
    except Exception as error:  # torch's errors have no common class
        raise CheckpointError(
            f"{file} cannot be loaded by torch {torch.__version__}: {error}; export it again"
        ) from error
    if device.type != "cpu":
        program = move_to_device_pass(program, device)
    module = program.module()

    def run(*tensors: Tensor) -> tuple[Tensor, ...]:
        with torch.no_grad():
            return module(*tensors)

    return run


def _read_metadata(file: Path) -> bytes:
    """Read the JSON among a program's extra files, without torch."""
    try:
        with zipfile.ZipFile(file) as archive:
            for entry in archive.infolist():
                if entry.filename.endswith(f"/{EXTRA}") and entry.file_size <= MAX_JSON:
                    return archive.read(entry)
    except FileNotFoundError as error:
        raise CheckpointError(f"{file} is not there") from error
    except (OSError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{file} cannot be read as a program of torch.export: {error}") from error
    raise CheckpointError(
        f"{file} was not exported by qdet: it lacks the classes and settings that qdet export writes"
    )
