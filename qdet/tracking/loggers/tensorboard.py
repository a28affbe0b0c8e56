"""TensorBoard: event files in the run's folder."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, SupportsFloat

import numpy as np

from qdet.masking import mask
from qdet.storage import Folder
from qdet.tracking import values as strings
from qdet.tracking.tracker import NullTracker, Picture, Status

if TYPE_CHECKING:
    from tensorboardX import SummaryWriter

LONGEST_TEXT = 20_000  # characters; TensorBoard shows texts, and is no file store


class TensorBoardTracker(NullTracker):
    """Writes scalars, pictures and settings; see `Tracker`.

    Args:
        store: Where the event files belong: `tensorboard/` of the run's folder.
        scratch: Local folder to write in where `store` is behind a URL; copied there when the run ends.
    """

    name = "tensorboard"

    def __init__(self, store: Folder, scratch: Path) -> None:
        self._store = store
        self._folder = store.local or scratch
        self._writer: SummaryWriter | None = None

    def params(self, values: Mapping[str, Any]) -> None:
        """Log the flat settings of the run as a table."""
        rows = [f"| {name} | {value} |" for name, value in strings.params(values).items()]
        self._text("settings", "\n".join(["| setting | value |", "| --- | --- |", *rows]))

    def metrics(self, values: Mapping[str, SupportsFloat], step: int) -> None:
        """Log numbers at an optimizer step; a run resumed from an earlier step replaces what followed it."""
        for name, value in values.items():
            self._open(step).add_scalar(name, float(value), step)

    def picture(self, image: Picture, name: str, step: int) -> None:
        """Log an RGB picture."""
        self._open(step).add_image(name, _pixels(image), step, dataformats="HWC")

    def table(self, columns: Mapping[str, Sequence[Any]], file: str) -> None:
        """Log a table by columns."""
        head = ["| " + " | ".join(columns) + " |", "| --- " * len(columns) + "|"]
        rows = ["| " + " | ".join(map(str, row)) + " |" for row in zip(*columns.values(), strict=True)]
        self._text(file, "\n".join(head + rows))

    def text(self, text: str, file: str) -> None:
        """Log text."""
        self._text(file, f"```\n{mask(text)}\n```")

    def close(self, status: Status | None = None, *, wait: float | int = 15) -> bool:
        """Write the rest, and copy the files to a store behind a URL."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
            if self._store.local is None:
                for file in sorted(path for path in self._folder.iterdir() if path.is_file()):
                    self._store.put(file.name, file.read_bytes())
        return True

    def _text(self, name: str, text: str) -> None:
        self._open(None).add_text(name, text[:LONGEST_TEXT])

    def _open(self, step: int | None) -> "SummaryWriter":
        if self._writer is None:
            from tensorboardX import SummaryWriter

            self._folder.mkdir(parents=True, exist_ok=True)
            self._writer = SummaryWriter(str(self._folder), flush_secs=10)
        return self._writer


def _pixels(image: Picture) -> np.ndarray:
    if not isinstance(image, Path):
        return image
    from PIL import Image

    with Image.open(image) as opened:
        return np.asarray(opened.convert("RGB"))
