"""Datasets as people bring them. In: six formats, splits, classes. Out: packing."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from data_prep.datasets.dataset import Dataset, Split, open_dataset
    from data_prep.datasets.pack import pack_split

_MODULES = {"Dataset": "dataset", "Split": "dataset", "open_dataset": "dataset", "pack_split": "pack"}
__all__ = ["Dataset", "Split", "open_dataset", "pack_split"]


def __getattr__(name: str) -> Any:
    """Import what is asked for: commands that only name a format need none of it."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
