"""Tell annotation files in JSON apart by what is in them, without parsing."""

import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from data_prep.datasets.tree import Tree
from qdet.data.files.json_text import plain_json
from qdet.errors import DataError

Kind = Literal["coco", "labelme", "createml"]
_JSON = frozenset((".json", ".gz"))
_ENCODED = (b"\x1f\x8b", b"\xff\xfe", b"\xfe\xff", b"\x00", b"version https://git-lfs")
"""How files begin that are gzipped, in UTF-16 or UTF-32, or pointers."""


def sort_json(tree: Tree) -> Mapping[Kind, list[str]]:
    """Return the annotation files of a folder by their format."""
    found: dict[Kind, list[str]] = {"coco": [], "labelme": [], "createml": []}
    for name in tree.below(suffixes=_JSON):
        if not name.lower().endswith((".json", ".json.gz")):
            continue
        kind = _kind_of(tree.path(name))
        if kind is not None:
            found[kind].append(name)
    return found


def _kind_of(file: Path) -> Kind | None:
    try:
        with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as text:
            if text[:64].startswith(_ENCODED) or text[1:2] == b"\0":
                return _recognize(plain_json(text[:], where=str(file)))
            return _recognize(text)
    except DataError:
        raise
    except ValueError:  # an empty file cannot be mapped
        return None
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror or error}") from error


def _recognize(text: mmap.mmap | bytes) -> Kind | None:
    if text[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"["):
        apple = _holds(text, "imagefilename", "annotation") or _holds(text, "image", "annotations")
        return "createml" if apple else None
    if _holds(text, "images", "annotations", "categories"):
        return "coco"
    return "labelme" if _holds(text, "shapes") else None


def _holds(text: mmap.mmap | bytes, *names: str) -> bool:
    return all(text.find(f'"{name}"'.encode()) >= 0 for name in names)
