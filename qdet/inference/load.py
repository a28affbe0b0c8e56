"""Load a trained model: of a run, a checkpoint, an exported file or MLflow, here or behind a URL."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch

from qdet.checkpoint.run_names import STORE, find_folder
from qdet.errors import CheckpointError, ConfigError, did_you_mean
from qdet.inference.exported_files import load_safetensors
from qdet.inference.from_mlflow import downloaded_model, is_mlflow, is_run_id
from qdet.inference.model import Model
from qdet.inference.runner import Device, choose_device
from qdet.inference.trained import load_folder
from qdet.storage import Folder
from qdet.storage.urls import is_url

FILES = (".safetensors", ".onnx", ".pt2")
"""Endings of exported files."""
FOREIGN = (".pth", ".pt", ".bin", ".ckpt", ".pkl")
"""Endings of other programs' checkpoints."""


def load(
    source: str | Path,
    *,
    device: Device = "auto",
    precision: Literal["auto", "bf16", "fp32"] = "auto",
    averaged: bool = True,
    announce: Callable[[str], None] | None = None,
) -> Model:
    """Load a model for prediction.

    Args:
        source: A run's folder, of which the checkpoint with the best val/AP is taken, or its name in
            `outputs`, or a part of either that names one run alone; a checkpoint's folder; an exported
            .safetensors, .onnx or .pt2 file; `runs:/ID` or `models:/NAME@ALIAS` of MLflow, or the id of a
            run there. Folders and files may be behind a URL, except .pt2.
        device: `cpu`, `cuda`, `cuda:1`, ...; `auto` takes a GPU if there is one.
        precision: `auto` computes as in training, so that results are those of its evaluations.
        averaged: Take the moving average of the weights, if there is one.
        announce: Called with a line that says which weights were taken.

    Raises:
        CheckpointError: Nothing is there, it is damaged, or of another version.
        ConfigError: The device is not there, or does not go with the file, or several runs are named.
        TrackingError: MLflow does not answer or has no such model.
    """
    announce = announce or (lambda _: None)
    where, to = str(source), choose_device(device)
    if is_mlflow(where) or is_run_id(where):
        with downloaded_model(where) as file:
            model = _load_file(file, to, precision, lambda line: announce(line.replace(file, where)))
        return replace(model, description=replace(model.description, source=where))
    if _ending(where) in (*FILES, *FOREIGN):
        return _load_file(where, to, precision, announce)
    return load_folder(_find_folder(where), to, precision, averaged=averaged, announce=announce)


def _load_file(where: str, to: torch.device, precision: str, announce: Callable[[str], None]) -> Model:
    ending = _ending(where)
    if ending == ".safetensors":
        return load_safetensors(where, to, precision, announce)
    if ending == ".onnx":
        from qdet.inference.runners.onnx import load_onnx

        check_precision(precision, where)
        return load_onnx(where, to)
    if ending == ".pt2":
        from qdet.inference.runners.program import load_program

        check_precision(precision, where)
        return load_program(where, to)
    raise CheckpointError(
        f"{where} is no file of qdet; convert an authors' checkpoint first: "
        f"qdet convert {where} --to weights/{Path(where).stem}"
    )


def _ending(where: str) -> str:
    return Path(where.partition("?")[0]).suffix.lower()


def _find_folder(where: str) -> Folder:
    """Return the folder of that path, URL or run name, or of the run whose name begins so.

    Raises:
        CheckpointError: There is none; the message names what is near.
        ConfigError: It names several runs.
    """
    found = find_folder(where)
    if found is not None:
        return found
    if is_url(where):
        return Folder.open(where)
    if Path(where).exists():
        raise CheckpointError(
            f"{where} is no model; give the folder of a run or checkpoint, or a .safetensors, .onnx or .pt2"
        )
    parent = Path(where).expanduser().parent
    near = [p.name for p in parent.iterdir()] if parent.is_dir() else []
    if Path(STORE).is_dir():
        near += [p.name for p in Path(STORE).iterdir()]
    raise CheckpointError(
        f"{where} is not there.{did_you_mean(Path(where).name, near)} Give a run's folder, such as "
        f"{STORE}/RUN, or the beginning of its name, a checkpoint's folder, an exported file, or runs:/ID of "
        "MLflow"
    )


def check_precision(precision: str, source: str) -> None:
    """Raise `ConfigError` where a file fixes its own precision and another is asked for."""
    if precision != "auto":
        raise ConfigError(f"{source} computes as it was exported; leave --precision out")
