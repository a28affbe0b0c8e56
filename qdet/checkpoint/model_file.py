"""A model as one .safetensors file, with the JSON that describes it beside it."""

import shutil
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from qdet.errors import CheckpointError
from qdet.storage.atomic import atomic_file


def write_model(file: Path, weights: Mapping[str, Tensor], about: str) -> Path:
    """Write weights to `file` and `about` to the .json file of the same name.

    Returns:
        The JSON file.

    Raises:
        CheckpointError: They cannot be written, or the name does not end in .safetensors.
    """
    if file.suffix.lower() != ".safetensors":
        raise CheckpointError(f"{file} must end in .safetensors; for other formats use qdet export")
    beside = file.with_suffix(".json")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(beside) as to:
            to.write(about.encode())
        save_file({name: t.contiguous() for name, t in weights.items()}, file)
        shutil.copymode(beside, file)  # safetensors keeps its files from other users
    except OSError as error:
        raise CheckpointError(f"{file} cannot be written: {error.strerror or error}") from error
    return beside
