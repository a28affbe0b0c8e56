"""Pictures written to a folder that a user named."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from qdet.errors import ConfigError
from qdet.storage.atomic import atomic_file
from qdet.visualize.boxes import png

FORMATS = {".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
"""Formats of pictures by the ending of their name; all others are PNG."""


@contextmanager
def picture_folder(path: Path) -> Iterator["PictureFolder"]:
    """Give a folder for pictures; what was made for it is removed again where no picture was written.

    Raises:
        ConfigError: It cannot be made.
    """
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--to {path} cannot be made: {error.strerror or error}") from error
    try:
        yield PictureFolder(path)
    finally:
        with suppress(OSError):  # something is in it
            for made in missing:
                made.rmdir()


class PictureFolder:
    """The folder of one run of a command, in which no picture overwrites another of the same run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._taken: set[str] = set()

    def file(self, name: str) -> Path:
        """Return where a picture goes, numbered where another one of this run has its name."""
        wanted, number = Path(name), 1
        while name in self._taken:
            number += 1
            name = f"{wanted.stem}-{number}{wanted.suffix}"
        self._taken.add(name)
        return self.path / name

    def save(self, picture: UInt8[np.ndarray, "h w 3"], name: str) -> Path:
        """Write a picture under the name, or a numbered one, and return its file.

        Raises:
            ConfigError: The file cannot be written.
        """
        file = self.file(name)
        try:
            with atomic_file(file, durable=False) as out:
                if (kind := FORMATS.get(file.suffix.lower())) is not None:
                    Image.fromarray(picture).save(out, kind, quality=92)
                else:
                    out.write(png(picture))
        except OSError as error:
            reason = error.strerror or error
            raise ConfigError(f"{file} cannot be written: {reason}; give another --to") from error
        return file
