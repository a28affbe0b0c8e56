"""A project's folder as what it holds: code, text, and files of other kinds such as weights and images."""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

CODE = (".py", ".pyi", ".pyx", ".pxd", ".so", ".c", ".cc", ".cpp", ".cu", ".cuh", ".h", ".hpp", ".sh")
KINDS = {
    "weights": "safetensors pth pt pt2 ckpt bin pkl pickle onnx engine tflite caffemodel h5 hdf5 gguf",
    "arrays and tables": "npy npz mat parquet arrow feather tfrecord lmdb mdb idx db sqlite sqlite3",
    "images": "jpg jpeg png webp bmp tif tiff gif ppm pgm heic dcm nii",
    "video": "mp4 avi mov mkv webm m4v mpg mpeg",
    "archives": "tar tgz zip gz bz2 xz zst 7z rar",
}
OTHER = tuple(ending for endings in KINDS.values() for ending in endings.split())
"""Endings of what is no source."""
SKIPPED = (".git", ".venv", "venv", "node_modules", ".qdet", "__pycache__", ".mypy_cache", ".pytest_cache")
SKIPPED += (".ruff_cache", ".hypothesis", ".tox", ".ipynb_checkpoints", "*.egg-info", "/wandb")
"""Folders that nothing is run from."""
ENVIRONMENT = ("pyvenv.cfg", "conda-meta")
"""What a Python environment of any name holds."""
FEWEST = 8
"""Images from which a folder is a dataset, with the text beside them."""


@dataclass
class Folder:
    """A folder, and what is below it."""

    path: str
    """Relative to the project; empty for the project itself."""
    files: dict[str, int] = field(default_factory=dict)
    """Bytes of its own files, by name."""
    folders: list["Folder"] = field(default_factory=list)
    is_environment: bool = False

    @property
    def is_package(self) -> bool:
        """Whether Python imports from it."""
        return "__init__.py" in self.files

    @cached_property
    def holds_code(self) -> bool:
        """Whether there is any code below it."""
        return any(map(is_code, self.files)) or any(folder.holds_code for folder in self.folders)

    @cached_property
    def bytes(self) -> int:
        """Of all that is below it."""
        return sum(size for _, size in self.walk())

    @cached_property
    def is_data(self) -> bool:
        """Whether it is a dataset or a store of models: no code, and images or weights with few texts."""
        others = sum(is_other(path) for path, _ in self.walk())
        texts = sum(1 for _ in self.walk()) - others
        return not self.holds_code and others >= FEWEST and 2 * others >= texts

    def walk(self) -> Iterator[tuple[str, int]]:
        """Yield path and bytes of every file below it."""
        for name, size in self.files.items():
            yield join(self.path, name), size
        for folder in self.folders:
            yield from folder.walk()


def read_folder(root: Path, path: str = "", above: frozenset[tuple[int, int]] = frozenset()) -> Folder:
    """Look at a project's folder; what cannot be read, and links that lead back up, hold nothing."""
    found = Folder(path)
    try:
        entries = sorted(os.scandir(root / path), key=lambda entry: entry.name)
        here = (root / path).stat()
    except OSError:
        return found
    identity = (here.st_dev, here.st_ino)
    names = {entry.name for entry in entries}
    found.is_environment = bool(path) and not names.isdisjoint(ENVIRONMENT)
    if identity in above or found.is_environment:
        return found
    for entry in entries:
        _add(found, entry, root, above | {identity})
    return found


def is_code(name: str) -> bool:
    """Whether a file can be run or imported, by its name."""
    return name.endswith(CODE)


def is_other(name: str) -> bool:
    """Whether a file is weights, images or the like, by its name."""
    return name.rpartition(".")[2].lower() in OTHER and "." in name


def join(folder: str, name: str) -> str:
    """Return the path of what is in a folder."""
    return f"{folder}/{name}" if folder else name


def _add(found: Folder, entry: "os.DirEntry[str]", root: Path, above: frozenset[tuple[int, int]]) -> None:
    try:
        status = entry.stat()
    except OSError:  # a link to nothing
        return
    if not stat.S_ISDIR(status.st_mode):
        found.files[entry.name] = status.st_size
    elif not _is_skipped(entry.name, found.path):
        found.folders.append(read_folder(root, join(found.path, entry.name), above))


def _is_skipped(name: str, folder: str) -> bool:
    return name in SKIPPED or name.endswith(".egg-info") or (not folder and f"/{name}" in SKIPPED)
