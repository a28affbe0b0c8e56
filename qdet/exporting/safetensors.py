"""Weights alone, as safetensors, with everything else in a JSON file beside them."""

from pathlib import Path

import torch
from torch import Tensor

from qdet.checkpoint.model_file import write_model
from qdet.errors import CheckpointError, ExportError
from qdet.inference.model import Model


def write_safetensors(model: Model, file: Path, *, half: bool = False) -> Path:
    """Write parameters and buffers to `file`, the description to the .json file beside it; return `file`.

    Args:
        model: The model.
        file: Name of the new file, ending in .safetensors.
        half: Store matrices in bf16, which loading turns back into fp32; vectors, such as norms, stay exact.

    Raises:
        ExportError: It cannot be written.
    """
    weights = {name: _stored(t.cpu(), half) for name, t in model.detector.state_dict().items()}
    try:
        write_model(file, weights, model.description.to_json())
    except CheckpointError as error:
        raise ExportError(str(error)) from error
    return file


def _stored(tensor: Tensor, half: bool) -> Tensor:
    return tensor.to(torch.bfloat16) if half and tensor.is_floating_point() and tensor.ndim > 1 else tensor
