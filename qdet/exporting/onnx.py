"""ONNX files: one that onnxruntime, OpenVINO and TensorRT read, with the model's description inside."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch

from qdet.errors import ConfigError, ExportError
from qdet.exporting.graphs import Graph
from qdet.exporting.parity import Difference, check
from qdet.inference.description import Description
from qdet.inference.runners.graphs import INPUTS, METADATA, OUTPUTS, pack

OPSET = 18
"""The lowest one that torch's exporter writes and that has antialiased resizing: the most widely read."""
LARGEST = 2**31
"""Bytes that a protobuf message, and so an ONNX file, can have."""


def write_onnx(graph: Graph, description: Description, file: Path, name: str) -> Difference:
    """Write a graph as ONNX and compare what onnxruntime computes with PyTorch.

    Args:
        graph: The model.
        description: What the file says of it.
        file: Where to write.
        name: What errors call the file.

    Raises:
        ExportError: It cannot be written as ONNX, or computes something else there.
        ConfigError: onnx, onnxscript or onnxruntime is not installed.
    """
    _require_packages(name)
    size = sum(t.numel() * t.element_size() for t in graph.module.state_dict().values())
    if size >= LARGEST:
        raise ExportError(f"{name}: {size / 1e9:.1f} GB of weights do not fit into an ONNX file; use .pt2")
    try:
        with _quiet():
            made = torch.onnx.export(
                graph.program,
                (),
                dynamo=True,
                opset_version=OPSET,
                verbose=False,
                input_names=INPUTS[graph.form],
                output_names=OUTPUTS[graph.form],
            )
    except torch.onnx.OnnxExporterError as error:
        raise ExportError(f"{name}: torch cannot write this model as ONNX: {error}") from error
    if made is None:
        raise ExportError(f"{name}: torch wrote no ONNX of this model")
    made.model.producer_name = "qdet"
    made.model.metadata_props[METADATA] = pack(description, graph.form)
    made.save(file, external_data=False)
    return _check(graph, file, name)


def _check(graph: Graph, file: Path, name: str) -> Difference:
    from qdet.inference.runners.onnx import as_function, open_session

    session = open_session(file, name, torch.device("cpu"), threads=torch.get_num_threads())
    return check(graph.module, as_function(session), graph.form, name)


def _require_packages(name: str) -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"{name} needs {error.name}: pip install 'qdet[onnx]'") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's progress and warnings about torch's own code to itself."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
