"""Finds where a program waits for the device: every operation that copies numbers to the host, by frame."""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode

READS = ("item", "tolist", "cpu", "numpy", "__bool__", "__int__", "__float__", "__index__")
SHAPED_BY_NUMBERS = (
    "aten._local_scalar_dense", "aten.nonzero", "aten.masked_select", "aten.equal", "aten.unique",
    "aten._unique2", "aten.is_nonzero", "aten.repeat_interleave.Tensor",
)  # fmt: skip
"""Operations whose result, or its shape, the host must know."""
ROOT = Path(__file__).parents[2] / "qdet"


class _Dispatch(TorchDispatchMode):
    def __init__(self, found: list[str]) -> None:
        super().__init__()
        self.found = found

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        masked = str(func).startswith("aten.index") and any(
            isinstance(i, torch.Tensor) and i.dtype == torch.bool for i in args[1] if i is not None
        )
        if masked or str(func).startswith(SHAPED_BY_NUMBERS):
            self.found.append(_frame())
        return func(*args, **(kwargs or {}))


@contextmanager
def spy_on_syncs() -> Iterator[list[str]]:
    """Collect `file:function` of our innermost frame for everything that would wait for a device."""
    found: list[str] = []

    def spied(name):
        real = getattr(torch.Tensor, name)

        def read(tensor, *args, **kwargs):
            found.append(_frame())
            return real(tensor, *args, **kwargs)

        return read

    patches = [mock.patch.object(torch.Tensor, name, spied(name)) for name in READS]
    for patch in patches:
        patch.start()
    try:
        with _Dispatch(found):
            yield found
    finally:
        for patch in patches:
            patch.stop()


def _frame() -> str:
    ours = [f for f in traceback.extract_stack() if f.filename.startswith(str(ROOT))]
    if not ours:
        return "outside"
    return f"{Path(ours[-1].filename).relative_to(ROOT)}:{ours[-1].name}"
