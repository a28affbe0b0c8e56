"""A checkpoint's model as one safetensors file, for use without training."""

import json
from pathlib import Path

from safetensors.torch import save_file

from qdet.checkpoint.saved import Saved
from qdet.errors import CheckpointError


def export(saved: Saved, file: Path, *, averaged: bool = True) -> Path:
    """Write parameters and buffers to `file`, and job, classes and step to the JSON file beside it.

    Args:
        saved: The checkpoint.
        file: Name of the new file, ending in .safetensors.
        averaged: Take the averaged parameters where the checkpoint has any.

    Returns:
        The JSON file.

    Raises:
        CheckpointError: It cannot be written.
    """
    beside = file.with_suffix(".json")
    about = {"step": saved.state.step, "categories": saved.state.categories, "job": saved.job}
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file({n: t.contiguous() for n, t in saved.model(averaged=averaged).items()}, file)
        beside.write_text(json.dumps(about, indent=1))
    except OSError as error:
        raise CheckpointError(f"{file} cannot be written: {error}") from error
    return beside
