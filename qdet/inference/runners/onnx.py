"""ONNX files of qdet, run by onnxruntime."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from qdet.errors import CheckpointError, ConfigError
from qdet.inference.exported_files import on_this_machine
from qdet.inference.model import Model
from qdet.inference.runners.graphs import METADATA, GraphRunner, Session, unpack

if TYPE_CHECKING:
    import onnxruntime

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


def load_onnx(where: str, device: torch.device) -> Model:
    """Load a model from an ONNX file at a path or URL.

    With a CUDA device, and where onnxruntime has its CUDA provider, the graph runs there; images and results
    pass through the host's memory.

    Raises:
        CheckpointError: It is not there, damaged, or not from qdet.
        ConfigError: onnxruntime is not installed.
    """
    with on_this_machine(where) as file:
        session = open_session(file, where, device)
    held = session.get_modelmeta().custom_metadata_map.get(METADATA)
    if held is None:
        raise CheckpointError(
            f"{where} was not exported by qdet: it lacks the classes and settings that qdet export writes"
        )
    description, form = unpack(held, where)
    runner = GraphRunner.of(as_function(session), form, description, torch.device("cpu"))
    return Model(description, runner)


def open_session(
    file: Path, where: str, device: torch.device, *, threads: int = 0
) -> "onnxruntime.InferenceSession":
    """Open an ONNX file; `where` is its name in errors, `threads` 0 means one per core.

    Raises:
        CheckpointError: It is no ONNX file, or one that onnxruntime cannot run.
        ConfigError: onnxruntime is not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise ConfigError(f"{where}: onnxruntime is not installed; pip install 'qdet[onnx]'") from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    options.intra_op_num_threads = threads
    try:
        return onnxruntime.InferenceSession(str(file), options, providers=_providers(device))
    except Exception as error:  # onnxruntime's errors have no common class
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"{where} cannot be read as ONNX: {first}") from error


def as_function(session: "onnxruntime.InferenceSession") -> Session:
    """Let a session take and return tensors."""
    names = [given.name for given in session.get_inputs()]

    def run(*tensors: Tensor) -> tuple[Tensor, ...]:
        arrays = {name: t.cpu().contiguous().numpy() for name, t in zip(names, tensors, strict=True)}
        return tuple(torch.from_numpy(array) for array in session.run(None, arrays))

    return run


def _providers(device: torch.device) -> list[str]:
    import onnxruntime

    if device.type != "cuda":
        return [CPU]
    if CUDA not in onnxruntime.get_available_providers():
        warnings.warn(
            "this onnxruntime has no CUDA provider: ONNX runs on the CPU; pip install onnxruntime-gpu",
            stacklevel=2,
        )
        return [CPU]
    return [CUDA, CPU]
