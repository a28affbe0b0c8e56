"""Pictures written to a folder that a user named."""

from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from qdet.errors import ConfigError
from qdet.storage.atomic import atomic_file
from qdet.visualize.boxes import png


def make_folder(folder: Path) -> None:
    """Make a folder for pictures.

    Raises:
        ConfigError: It cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--to {folder} cannot be made: {error.strerror or error}") from error


def save(picture: UInt8[np.ndarray, "h w 3"], file: Path) -> None:
    """Write a picture as PNG.

    Raises:
        ConfigError: The file cannot be written.
    """
    try:
        with atomic_file(file) as out:
            out.write(png(picture))
    except OSError as error:
        reason = error.strerror or error
        raise ConfigError(f"{file} cannot be written: {reason}; give another --to") from error
