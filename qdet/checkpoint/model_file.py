"""A model as one .safetensors file, with the JSON that describes it beside it."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from qdet.errors import CheckpointError
from qdet.masking import mask
from qdet.storage.atomic import atomic_file


def describe(
    *,
    job: Mapping[str, Any],
    categories: Mapping[str, Any],
    step: int,
    averaged: bool,
    metrics: Mapping[str, float],
) -> str:
    """Return, as JSON, what must be known of a model beside its weights.

    Args:
        job: Flat settings; secrets, which URLs among them may hold, are masked.
        categories: Class names and original ids, in label order.
        step: Training steps behind the weights.
        averaged: Whether they are a moving average.
        metrics: Those of an evaluation of these weights; empty if there was none.
    """
    content = {
        "step": step,
        "averaged": averaged,
        "metrics": dict(metrics),
        "categories": dict(categories),
        "job": {k: mask(v, key=k) if isinstance(v, str) else v for k, v in job.items()},
    }
    return json.dumps(content, indent=1)


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
