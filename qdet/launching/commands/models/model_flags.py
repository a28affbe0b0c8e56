"""The flags of every command that loads a model."""

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg

if TYPE_CHECKING:
    from qdet.inference.model import Model


ModelSource = Annotated[
    Positional[str],
    arg(
        metavar="MODEL",
        help="A run's folder or name, a checkpoint, a .safetensors, .onnx or .pt2 file, runs:/ID or "
        "models:/NAME@ALIAS of MLflow; here or behind a URL. demo is the model that comes with qdet.",
    ),
]


@dataclass(frozen=True, kw_only=True)
class ModelFlags:
    """How a model is loaded."""

    device: Annotated[str, arg(metavar="NAME")] = "auto"
    """cpu, cuda, cuda:1, ...; auto takes a GPU if there is one."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """auto computes as in training, so that results are those of its evaluations; in fp32 where the device
    would only emulate bf16."""
    weights: bool = False
    """Take the weights that were trained, not their moving average."""

    def open(self, source: str) -> "Model":
        """Load the model, and say on stderr which weights were taken; raises what `qdet.load` does."""
        from qdet.inference.load import load

        return load(
            source,
            device=self.device,
            precision=self.precision,
            averaged=not self.weights,
            announce=lambda line: print(line, file=sys.stderr, flush=True),
        )
