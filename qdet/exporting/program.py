"""Programs of torch.export (.pt2): a model without its Python code."""

import warnings
from pathlib import Path

import torch

from qdet.exporting.graphs import Graph
from qdet.exporting.parity import Difference, check
from qdet.inference.description import Description
from qdet.inference.runners.graphs import pack
from qdet.inference.runners.program import EXTRA, open_program


def write_program(graph: Graph, description: Description, file: Path, name: str) -> Difference:
    """Write a graph as a program and compare what it computes when it is loaded with the model.

    Args:
        graph: The model.
        description: What the file says of it.
        file: Where to write.
        name: What errors call the file.

    Raises:
        ExportError: torch cannot trace it, or it computes something else.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(graph.program, file, extra_files={EXTRA: pack(description, graph.form)})
    return check(graph.module, open_program(file, torch.device("cpu")), graph.form, name)
