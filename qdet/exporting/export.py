"""Write a loaded model for other programs; the ending of the name says in which format."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import torch

from qdet.detectors.detector import Detector
from qdet.errors import ConfigError, ExportError
from qdet.exporting.graphs import Graph
from qdet.exporting.onnx import write_onnx
from qdet.exporting.parity import Difference
from qdet.exporting.program import write_program
from qdet.exporting.safetensors import write_safetensors
from qdet.exporting.transformers.folder import write_folder
from qdet.inference.load import load
from qdet.inference.model import Model
from qdet.inference.runners.graphs import Form
from qdet.storage.atomic import unfinished_prefix

FORMATS = "a .onnx, .pt2 or .safetensors file, or a folder, which gets the layout of transformers"


@dataclass(frozen=True)
class Exported:
    """What was written."""

    path: Path
    """File or folder."""
    difference: Difference | None
    """How far the file's results are from PyTorch's; None of .safetensors, which holds the same weights."""

    def report(self) -> str:
        """Say it in one line."""
        found = self.difference
        if found is None:
            return f"wrote {self.path}, and beside it {self.path.with_suffix('.json').name}"
        return (
            f"wrote {self.path}; in {found.images} images its scores differ from PyTorch's by at most "
            f"{found.scores:.0e}, its boxes by {found.boxes:.0e} of the image"
        )


def export(
    model: Model | str | Path, to: str | Path, *, form: Form = "batch", half: bool = False
) -> Exported:
    """Write a model for other programs, and compare what was written with PyTorch.

    Computation is in fp32 there. A file of that name is replaced once the new one is whole and compared.

    >>> qdet.export(qdet.load("outputs/RUN"), "model.onnx")

    Args:
        model: From `qdet.load`, or what that takes.
        to: A .onnx, .pt2 or .safetensors file; any other name is a new folder in transformers' layout.
        form: What a graph does itself: `batch` normalizes and scores, `image` resizes and pads as well, `raw`
            neither. Not for .safetensors and folders.
        half: Store the matrices of a .safetensors file in bf16: half the size.

    Raises:
        ConfigError: The format does not exist, does not go with `form`, or needs a package.
        ExportError: The format cannot hold this model, or computes something else.
    """
    path = Path(to).expanduser()
    ending = check_target(path, form)
    if half and ending != ".safetensors":
        raise ConfigError(f"--half is for .safetensors files; {path} is none")
    if not isinstance(model, Model):
        model = load(model, device="cpu")
    if ending == ".safetensors":
        return Exported(write_safetensors(model, path, half=half), None)
    detector = _on_cpu(model.detector)
    if ending == "":
        return Exported(path, write_folder(detector, model.description, path))
    graph, write = Graph.of(detector, model.description.augment, form), write_onnx
    if ending == ".pt2":
        write = write_program
    with _finished(path) as unfinished:
        return Exported(path, write(graph, model.description, unfinished, str(path)))


def check_target(path: Path, form: Form) -> str:
    """Return the ending of a file to write, lower case; of a folder, nothing.

    Raises:
        ConfigError: There is no such format, or `form` does not go with it.
    """
    ending = path.suffix.lower()
    if ending not in ("", ".onnx", ".pt2", ".safetensors"):
        raise ConfigError(f"--to {path}: the format {ending} does not exist; give {FORMATS}")
    if ending and path.is_dir():
        raise ConfigError(f"--to {path} is a folder; give the name of a file")
    if ending == "" and path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ConfigError(f"--to {path} is already there; give a new folder, or a file: {FORMATS}")
    if form != "batch" and ending not in (".onnx", ".pt2"):
        raise ConfigError(f"--form {form} is for .onnx and .pt2 files, which hold a graph; {path} does not")
    return ending


def _on_cpu(detector: Detector) -> Detector:
    """Return the detector itself where it is on the CPU, else a copy; in evaluation mode either way."""
    if next(detector.parameters()).device.type == "cpu":
        return detector.eval()
    return copy.deepcopy(detector).to(torch.device("cpu")).eval()


@contextmanager
def _finished(path: Path) -> Iterator[Path]:
    """Give a name to write to; without an error the file gets its own name, else it is removed."""
    unfinished = path.with_name(f"{unfinished_prefix(path.name)}{uuid4().hex[:8]}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield unfinished
        unfinished.replace(path)
    except OSError as error:
        raise ExportError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        unfinished.unlink(missing_ok=True)
