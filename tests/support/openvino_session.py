"""OpenVINO's CPU runtime as a session of an exported graph, for comparisons with PyTorch."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from qdet.inference.runners.graphs import Session


def open_in_openvino(file: Path) -> Session:
    """Compile an ONNX file in fp32 for one thread; skip the test where OpenVINO is not installed."""
    openvino = pytest.importorskip("openvino")
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = openvino.compile_model(openvino.Core().read_model(file), "CPU", settings)

    def run(*inputs: Tensor) -> tuple[Tensor, ...]:
        found = compiled([t.numpy() for t in inputs])
        return tuple(torch.from_numpy(found[i].copy()) for i in range(len(compiled.outputs)))

    return run
