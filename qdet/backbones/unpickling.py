"""What a PyTorch file may hold beside tensors, so that reading it runs no code of it.

The authors' scripts saved their parsed command line, into which cluster launchers put paths and numpy's
numbers. Types that do nothing but hold such values are allowed by name; each becomes a plain one here.
"""

import argparse
import re
from collections.abc import Callable
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np

_CODES = re.compile(r"[biufc]\d+|[?]")
"""Numpy's names of numbers and truth values; none of objects, text, dates or records."""


class NumberType:
    """What a pickled `numpy.dtype` says: a kind of number and its byte order."""

    def __init__(self, code: str, align: object = False, copy: object = False) -> None:
        if not isinstance(code, str) or not _CODES.fullmatch(code):
            raise ValueError(f"it has values of numpy's type {code!r}, which are no numbers")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        """Take the byte order; the rest describes records, which numbers have none of."""
        if state[1] in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(state[1])


def number(kind: NumberType, data: bytes) -> bool | int | float | complex:
    """Return the number that a pickled numpy scalar stands for."""
    if not isinstance(kind, NumberType) or len(data) != kind.dtype.itemsize:
        raise ValueError("it has a scalar of numpy that is no number")
    return np.frombuffer(data, kind.dtype)[0].item()


ALLOWED: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    argparse.Namespace,
    NumberType,
    (NumberType, "numpy.dtype"),
    *((number, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    *((PurePosixPath, f"pathlib{part}.{kind}") for part in ("", "._local") for kind in ("PosixPath", "Path")),
    *((PurePosixPath, f"pathlib{part}.PurePosixPath") for part in ("", "._local")),
    *((PureWindowsPath, f"pathlib{part}.WindowsPath") for part in ("", "._local")),
]
"""For `torch.serialization.safe_globals`: what stands in for a type, and the type's name in the file."""
