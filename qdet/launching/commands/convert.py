"""`python -m qdet convert`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional


@dataclass(frozen=True, kw_only=True)
class ConvertCommand:
    """Convert a published checkpoint into a folder that `--store.init-from` starts a job from."""

    checkpoint: Positional[Path]
    """File of a detector's authors or of transformers (.pth, .bin, .safetensors), or its folder."""
    to: Path
    """New folder to write."""
    all_classes: bool = False
    """Keep all 91 rows of heads that count in COCO's ids, instead of those of its 80 classes."""
    dc5: bool = False
    """The backbone's last stage is dilated: weights do not show it, files of transformers say it."""
    heads: int | None = None
    """Heads of every attention, where they are not 8: weights do not show them either."""

    def run(self, _: Sequence[str]) -> int:
        """Convert, and print what was recognized."""
        from qdet.launching.commands import conversion

        found = conversion.convert(
            self.checkpoint, self.to, all_classes=self.all_classes, dc5=self.dc5, heads=self.heads
        )
        print(conversion.report(found, self.to))
        return 0
