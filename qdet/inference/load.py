"""Load a trained model: of a run, a checkpoint, an exported file or MLflow, here or behind a URL."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

import torch

from qdet.errors import ConfigError
from qdet.inference.exported_files import load_safetensors
from qdet.inference.from_mlflow import downloaded_model, is_mlflow, is_run_id
from qdet.inference.model import Model
from qdet.inference.origin import FILES, FOREIGN, ending, find_folder, refuse_foreign, shipped
from qdet.inference.runner import Device, choose_device
from qdet.inference.trained import load_folder

Asked = Literal["auto", "bf16", "fp32"]


def load(
    source: str | Path,
    *,
    device: Device = "auto",
    precision: Asked = "auto",
    averaged: bool = True,
    announce: Callable[[str], None] | None = None,
) -> Model:
    """Load a model for prediction.

    Args:
        source: A run's folder, of which the checkpoint with the best val/AP is taken, or its name in
            `outputs`, or a part of either that names one run alone; a checkpoint's folder; `demo`, the model
            that comes with qdet, unless a file, folder or run has that name; an exported .safetensors, .onnx
            or .pt2 file; `runs:/ID` or `models:/NAME@ALIAS` of MLflow, or the id of a run there. Folders and
            files may be behind a URL, except .pt2.
        device: `cpu`, `cuda`, `cuda:1`, ...; `auto` takes a GPU if there is one.
        precision: `auto` computes as in training, so that results are those of its evaluations; in fp32 where
            the device would only emulate bf16, with results as near as rounding.
        averaged: Take the moving average of the weights, if there is one.
        announce: Called with a line that says which weights were taken.

    Raises:
        CheckpointError: Nothing is there, it is damaged, or of another version.
        ConfigError: The device is not there, or does not go with the file, or several runs are named.
        TrackingError: MLflow does not answer or has no such model.
    """
    announce = announce or (lambda _: None)
    where, to = str(source), choose_device(device)
    require_known(precision)
    if (file := shipped(where)) is not None:
        model = _load_file(str(file), to, precision, lambda line: announce(line.replace(str(file), where)))
        return replace(model, description=replace(model.description, source=where))
    if is_mlflow(where) or is_run_id(where):
        with downloaded_model(where) as file:
            model = _load_file(file, to, precision, lambda line: announce(line.replace(file, where)))
        return replace(model, description=replace(model.description, source=where))
    if ending(where) in (*FILES, *FOREIGN):
        return _load_file(where, to, precision, announce)
    return load_folder(find_folder(where), to, precision, averaged=averaged, announce=announce)


def _load_file(where: str, to: torch.device, precision: str, announce: Callable[[str], None]) -> Model:
    kind = ending(where)
    if kind == ".safetensors":
        return load_safetensors(where, to, precision, announce)
    if kind == ".onnx":
        from qdet.inference.runners.onnx import load_onnx

        check_precision(precision, where)
        return load_onnx(where, to)
    if kind == ".pt2":
        from qdet.inference.runners.program import load_program

        check_precision(precision, where)
        return load_program(where, to)
    raise refuse_foreign(where)


def require_known(precision: str) -> None:
    """Raise `ConfigError` for a precision that there is not."""
    if precision not in get_args(Asked):
        raise ConfigError(f"precision must be one of {', '.join(get_args(Asked))}, got {precision!r}")


def check_precision(precision: str, source: str) -> None:
    """Raise `ConfigError` where a file fixes its own precision and another is asked for."""
    if precision != "auto":
        raise ConfigError(f"{source} computes as it was exported; leave --precision out")
