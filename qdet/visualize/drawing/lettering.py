"""The font of all pictures."""

import functools
import importlib.util
from pathlib import Path
from typing import Any

from PIL import ImageFont


@functools.cache
def load_font(size: int, *, bold: bool = False) -> Any:
    """Return DejaVu, which ships with matplotlib and covers most alphabets; else Pillow's font."""
    found = importlib.util.find_spec("matplotlib")
    if found is not None and found.origin is not None:
        file = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
        path = Path(found.origin).parent / "mpl-data" / "fonts" / "ttf" / file
        if path.exists():
            return ImageFont.truetype(path, size)
    return ImageFont.load_default(size)
