"""A folder that MLflow loads as a model: safetensors, their JSON, and code that is run, never unpickled."""

import io
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from qdet.checkpoint import Checkpoint
from qdet.checkpoint.reading import export
from qdet.errors import CheckpointError
from qdet.inference import SCORE
from qdet.inference.exported_files import MODEL
from qdet.tracking.server import load_mlflow

CODE = Path(__file__).with_name("mlflow_code.py")
REQUIREMENTS = (
    "torch",
    "numpy",
    "scipy",
    "pandas",
    "safetensors",
    "Pillow",
    "opencv-python-headless",
    "simplejpeg",
    "msgspec",
    "jaxtyping",
    "supervision",
    "fsspec",
)
"""Packages that prediction imports, beside MLflow; qdet itself is installed from its repository."""
EXAMPLE_HW = (48, 64)
"""Size of the example image in pixels."""


@dataclass(frozen=True)
class WrittenModel:
    """A model in MLflow's format."""

    folder: Path
    step: int
    """Training steps behind its weights."""
    averaged: bool
    """Whether they are a moving average."""
    metrics: Mapping[str, float]
    """Those of an evaluation of these weights; empty if there was none."""


def write_mlflow_model(saved: Checkpoint, folder: Path) -> WrittenModel:
    """Write the model of a checkpoint, its averaged weights if it has any, as a `python_function`.

    Args:
        saved: The checkpoint.
        folder: A folder that does not exist yet.

    Raises:
        CheckpointError: The checkpoint cannot be read, or the weights cannot be written.
    """
    averaged = bool(saved.names("average"))
    weights = folder.with_name(f"{folder.name}.weights") / MODEL
    try:
        _save(folder, weights, export(saved, weights), step=saved.state.step)
    finally:
        shutil.rmtree(weights.parent, ignore_errors=True)
    return WrittenModel(folder, saved.state.step, averaged, saved.manifest.metrics)


def check_mlflow_model(model: WrittenModel, saved: Checkpoint) -> None:
    """Load a written model as its users do, and compare what it finds in its example with the checkpoint.

    Raises:
        CheckpointError: It cannot be loaded, or finds something else.
    """
    load_mlflow()
    import mlflow.pyfunc

    from qdet.exporting.pyfunc import DEVICE

    try:
        loaded = mlflow.pyfunc.load_model(str(model.folder), model_config={DEVICE: "cpu"})
        found = loaded.predict(loaded.input_example, params={"score": 0.0})
    except Exception as error:  # whatever MLflow, pandas or torch raise
        raise CheckpointError(f"the model for MLflow does not load: {error}") from error
    expected = _predict(saved)
    for column in expected:
        if found[column].tolist() != expected[column].tolist():
            raise CheckpointError(f"the model for MLflow finds other {column} than {saved.folder}")


def _save(folder: Path, weights: Path, beside: Path, *, step: int) -> None:
    load_mlflow()
    import mlflow.pyfunc

    from qdet.exporting.pyfunc import DESCRIPTION, DEVICE, WEIGHTS

    mlflow.pyfunc.save_model(
        folder,
        python_model=str(CODE),
        artifacts={WEIGHTS: str(weights), DESCRIPTION: str(beside)},
        signature=_signature(),
        input_example=_example(),
        pip_requirements=_requirements(),
        model_config={DEVICE: "auto"},
        metadata={"step": step},
    )


def _predict(saved: Checkpoint) -> Any:
    import torch

    from qdet.exporting.pyfunc import IMAGE, as_table
    from qdet.inference.build import build
    from qdet.inference.description import Description

    description = Description.of_checkpoint(saved, saved.manifest, averaged=True)
    model = build(description, saved.model(averaged=True), torch.device("cpu"), "auto")
    return as_table(model.predict(_example()[IMAGE].tolist(), score=0.0))


def _signature() -> Any:
    load_mlflow()
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema
    from mlflow.types.schema import Array, DataType

    from qdet.exporting.pyfunc import IMAGE, PATH

    return ModelSignature(
        inputs=Schema(
            [ColSpec("string", PATH, required=False), ColSpec("binary", IMAGE, required=False)],
        ),
        outputs=Schema(
            [
                ColSpec(Array(Array(DataType.double)), "boxes"),
                ColSpec(Array(DataType.double), "scores"),
                ColSpec(Array(DataType.long), "labels"),
                ColSpec(Array(DataType.string), "names"),
            ]
        ),
        params=ParamSchema([ParamSpec("score", "double", SCORE)]),
    )


def _example() -> Any:
    """Return a table with one image: a light rectangle on a gradient."""
    import pandas as pd
    from PIL import Image

    from qdet.exporting.pyfunc import IMAGE

    height, width = EXAMPLE_HW
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 0] = np.linspace(0, 120, width)
    pixels[..., 2] = np.linspace(0, 120, height)[:, None]
    pixels[height // 4 : height // 2, width // 4 : width // 2] = 230
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, format="PNG")
    return pd.DataFrame({IMAGE: [encoded.getvalue()]})


def _requirements() -> list[str]:
    found = []
    for name in REQUIREMENTS:
        try:
            found.append(f"{name}=={version(name).partition('+')[0]}")
        except PackageNotFoundError:
            continue
    return found
