"""One rule for every output that a user names: what is there already stays, unless --force is given."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from qdet.errors import ConfigError


def check_free(path: Path, *, flag: str = "--to", force: bool = False) -> None:
    """Raise ConfigError if something is at `path` that writing there could overwrite, without `force`.

    An empty folder is free. With `force` files of the same name are overwritten, and nothing else.
    """
    if not force and _is_taken(path):
        raise ConfigError(f"{flag} {path} is already there; give another name, or --force to overwrite it")


@contextmanager
def replaced(path: Path, *, sign: str, force: bool) -> Iterator[Path]:
    """Yield where to write a folder; what had its name is removed when the block has ended well.

    Args:
        path: The folder.
        sign: File that such a folder has; one without it is somebody's own, which `force` does not remove.
        force: Whether to replace it.

    Raises:
        ConfigError: Something is there that stays.
    """
    check_free(path, force=force)
    if not _is_taken(path):
        yield path
        return
    if not (path / sign).is_file():
        raise ConfigError(f"--to {path} is already there and has no {sign}: --force does not remove that")
    with TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as beside:
        new = Path(beside) / path.name
        yield new
        shutil.rmtree(path)
        new.rename(path)


def _is_taken(path: Path) -> bool:
    if path.is_dir():
        return any(path.iterdir())
    return path.exists() or path.is_symlink()
