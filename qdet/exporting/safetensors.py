"""Weights alone, as safetensors, with everything else in a JSON file beside them."""

from pathlib import Path

from qdet.checkpoint.model_file import write_model
from qdet.errors import CheckpointError, ExportError
from qdet.inference.model import Model


def write_safetensors(model: Model, file: Path) -> Path:
    """Write parameters and buffers to `file`, the description to the .json file beside it; return `file`.

    Raises:
        ExportError: It cannot be written.
    """
    weights = {name: t.cpu() for name, t in model.detector.state_dict().items()}
    try:
        write_model(file, weights, model.description.to_json())
    except CheckpointError as error:
        raise ExportError(str(error)) from error
    return file
