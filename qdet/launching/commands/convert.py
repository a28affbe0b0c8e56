"""`qdet convert`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from qdet.launching.commands.overwriting import replaced


@dataclass(frozen=True, kw_only=True)
class ConvertCommand:
    """Convert a published checkpoint into a folder that `--store.init-from` starts a job from."""

    checkpoint: Positional[Path]
    """File of a detector's authors or of transformers (.pth, .bin, .safetensors), or its folder."""
    to: Annotated[Path, arg(metavar="DIR")]
    """New folder to write."""
    force: bool = False
    """Overwrite what is there already."""
    all_classes: bool = False
    """Keep all 91 rows of heads that count in COCO's ids, instead of those of its 80 classes."""
    dc5: bool = False
    """The backbone's last stage is dilated: weights do not show it, files of transformers say it."""
    heads: int | None = None
    """Heads of every attention, where they are not 8: weights do not show them either."""

    def run(self, _: Sequence[str]) -> int:
        """Convert, and print what was recognized."""
        from qdet.checkpoint.manifest import MANIFEST
        from qdet.launching.commands import conversion

        with replaced(self.to, sign=MANIFEST, force=self.force) as folder:
            found = conversion.convert(
                self.checkpoint, folder, all_classes=self.all_classes, dc5=self.dc5, heads=self.heads
            )
        print(conversion.report(found, self.to))
        return 0
