"""`qdet export`."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from tyro.conf import OmitArgPrefixes

from qdet.launching.commands.models.model_flags import ModelFlags, ModelSource
from qdet.launching.commands.overwriting import check_free, replaced


@dataclass(frozen=True, kw_only=True)
class ExportCommand:
    """Write a model for other programs: ONNX, torch.export, safetensors, or transformers' layout."""

    model: ModelSource
    to: Path
    """FILE.onnx, FILE.pt2 or FILE.safetensors; any other name is a new folder that transformers loads."""
    form: Literal["batch", "image", "raw"] = "batch"
    """What the graph in a .onnx or .pt2 does itself: batch normalizes and scores padded images, image resizes
    and pads as well, raw takes normalized floats and returns logits and boxes."""
    half: bool = False
    """Store the matrices of a .safetensors file in bf16: half the size, nearly the same results."""
    force: bool = False
    """Overwrite what is there already."""
    load: OmitArgPrefixes[ModelFlags] = field(default_factory=ModelFlags)

    def run(self, _: Sequence[str]) -> int:
        """Export, and say what was written and how far its results are from PyTorch's."""
        from qdet.exporting.export import check_target, export

        with self._target() as path:
            check_target(path, self.form)
            written = export(self.load.open(self.model), path, form=self.form, half=self.half)
        print(replace(written, path=self.to).report())
        return 0

    def _target(self) -> AbstractContextManager[Path]:
        """Where to write: a file replaces another by itself, a folder is put in its place at the end."""
        if self.to.suffix:
            check_free(self.to, force=self.force)
            return nullcontext(self.to)
        return replaced(self.to, sign="config.json", force=self.force)
