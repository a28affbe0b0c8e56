"""`qdet checkpoint`."""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from qdet.errors import ConfigError
from qdet.launching.commands.overwriting import check_free


@dataclass(frozen=True, kw_only=True)
class CheckpointCommand:
    """List the checkpoints of a run, compare every byte with what was written, and name the one to resume."""

    folder: Positional[str]
    """A run, by its name or a part of it, folder or URL; or the folder or URL of one checkpoint."""
    json: bool = False
    """Print an object for programs instead of a table."""
    export: Annotated[Path | None, arg(metavar="FILE")] = None
    """Write the model of that checkpoint to this .safetensors file, and its job to a .json file beside it."""
    force: bool = False
    """Overwrite what is there already."""
    ema: bool = False
    """Export averaged weights, or fail if there are none; by default they are exported if there are any."""
    weights: bool = False
    """Export the weights that were trained, not their average."""

    def run(self, _: Sequence[str]) -> int:
        """Print what was found, then export."""
        from qdet.launching.commands.runs import checkpoint_report as report

        if (self.ema or self.weights) and (self.export is None or (self.ema and self.weights)):
            raise ConfigError("--ema or --weights says what --export FILE writes: give one of them, with it")
        if self.export is not None and self.export.suffix.lower() != ".safetensors":
            raise ConfigError(
                f"--export {self.export} must end in .safetensors; for ONNX and others: "
                + shlex.join(["qdet", "export", str(self.folder), "--to", str(self.export)])
            )
        if self.export is not None:
            check_free(self.export, flag="--export", force=self.force)
        looks = report.look(self.folder)
        print(report.show_json(looks) if self.json else report.show(looks), flush=True)
        newest = report.choose_newest(looks)
        if self.export is not None:
            said = report.export_model(newest, self.export, ema=self.ema, weights=self.weights)
            print(said, file=sys.stderr if self.json else sys.stdout)
        return 0
