"""Weights alone, as safetensors, with everything else in a JSON file beside them."""

from pathlib import Path

from safetensors.torch import save

from qdet.errors import ExportError
from qdet.inference.model import Model
from qdet.storage.atomic import atomic_file


def write_safetensors(model: Model, file: Path) -> Path:
    """Write parameters and buffers to `file`, the description to the .json file beside it; return `file`.

    Raises:
        ExportError: It cannot be written.
    """
    weights = {name: t.cpu().contiguous() for name, t in model.detector.state_dict().items()}
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(file) as to:
            to.write(save(weights, metadata={"format": "pt"}))
        with atomic_file(file.with_suffix(".json")) as to:
            to.write(model.description.to_json().encode())
    except OSError as error:
        raise ExportError(f"{file} cannot be written: {error.strerror or error}") from error
    return file
