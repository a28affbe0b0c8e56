"""Which implementation of an operation runs: a Triton kernel, or its definition in torch."""

import functools
import importlib.util
import os
import warnings
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn

from qdet.errors import ConfigError

Choice = Literal["auto", "torch", "triton"]
"""Kernels on CUDA devices where Triton can be imported, never, or wherever they support the shapes."""


class _State:
    """What this process chose, and what it learned about its kernels."""

    choice: Choice = "torch"
    trusted: dict[Hashable, bool] = {}  # noqa: RUF012  # one per process
    said: set[str] = set()  # noqa: RUF012


def choose_kernels(choice: Choice, device: torch.device) -> None:
    """Choose for this process, which computes on `device`.

    Raises:
        ConfigError: Kernels are required where they cannot run.
    """
    if choice == "triton" and not has_triton():
        raise ConfigError(
            "--train.kernels triton: Triton cannot be imported; install it, or take --train.kernels auto"
        )
    if choice == "triton" and device.type != "cuda" and not interpreting():
        raise ConfigError(
            f"--train.kernels triton needs a CUDA device, and this run computes on {device.type}; "
            "take --train.kernels auto, or set TRITON_INTERPRET=1 to debug a kernel"
        )
    _State.choice = choice


@contextmanager
def kernels(choice: Choice) -> Iterator[None]:
    """Choose inside a `with`, without checks."""
    before, _State.choice = _State.choice, choice
    try:
        yield
    finally:
        _State.choice = before


@functools.cache
def has_triton() -> bool:
    """Whether Triton is installed."""
    return importlib.util.find_spec("triton") is not None


def interpreting() -> bool:
    """Whether Triton runs programs in its interpreter, on any device and slowly."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def kernels_wanted(*tensors: Tensor) -> bool:
    """Whether an operation on `tensors` should run as a kernel if it supports their shapes.

    Tracing, exporting and compiling keep torch's operations.
    """
    if _State.choice == "torch" or not all(map(_is_plain, tensors)) or not has_triton():
        return False
    on_gpu = all(t.is_cuda for t in tensors)
    return on_gpu and not interpreting() if _State.choice == "auto" else on_gpu or interpreting()


def _is_plain(tensor: Tensor) -> bool:
    tracing = torch.compiler.is_compiling() or torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]
    return type(tensor) in (Tensor, nn.Parameter) and not tracing


def fall_back(operation: str, reason: str) -> bool:
    """Return False, after a message that is given once: `operation` runs in torch for this `reason`."""
    message = f"{operation} runs in torch, not as a kernel: {reason}"
    if message not in _State.said:
        _State.said.add(message)
        warnings.warn(message, stacklevel=3)
    return False


def trusted(operation: str, kind: Hashable, check: Callable[[], None]) -> bool:
    """Whether a kernel passes its `check`, which runs once for every `kind` of inputs.

    A kernel that does not compile, or computes something else on this device, is replaced by torch.
    """
    key = (operation, kind)
    if key not in _State.trusted:
        try:
            check()
            _State.trusted[key] = True
        except Exception as error:  # Triton's, the driver's, or a disagreement
            _State.trusted[key] = fall_back(operation, f"{type(error).__name__}: {error}")
    return _State.trusted[key]
