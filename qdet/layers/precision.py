"""Islands of fp32 inside a network that runs in bfloat16 under autocast.

`torch.autocast` picks a dtype per operation, and not always a safe one: products of pixel coordinates follow
their bfloat16 inputs (spacing 4 at 1000 pixels), and on a CPU so do softmax, norms and powers. A function
that holds such arithmetic is marked:

    @fp32_island("geometry")
    def decode(xyzr): ...

It then runs with autocast off and its half-precision inputs widened to float32. float32 and float64 inputs
keep their type, so a float64 model is float64 throughout.
"""

import functools
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Any, Literal, ParamSpec, TypeVar

import torch
from torch import Tensor

Island = Literal["geometry", "overlap", "position", "sampling", "norm", "head", "loss"]

P = ParamSpec("P")
R = TypeVar("R")

_NARROW = (torch.bfloat16, torch.float16)


def fp32_island(name: Island) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Mark a function whose arithmetic stays in float32 or wider, whatever precision surrounds it."""

    def mark(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def on_island(*args: P.args, **kwargs: P.kwargs) -> R:
            return _run(name, function, args, kwargs)

        return on_island

    return mark


def _run(name: Island, function: Callable[..., R], args: tuple[Any, ...], kwargs: dict[str, Any]) -> R:
    """Run `function` on widened inputs outside autocast; tests disable islands by `name`."""
    args, kwargs = widen(args), widen(kwargs)
    device = next((t.device.type for t in _tensors((args, kwargs))), None)
    if device is None or not _autocasts(device):
        return function(*args, **kwargs)
    with torch.autocast(device, enabled=False):
        return function(*args, **kwargs)


def widen(value: Any) -> Any:
    """Return `value` with every half-precision tensor in it as float32.

    Tensors are found in tuples, lists, dicts and dataclasses.
    """
    return _map_tensors(value, lambda t: t.float() if t.dtype in _NARROW else t)


def narrowed(tensor: Tensor) -> torch.dtype:
    """Return the dtype in which matrix products read `tensor`: autocast's, or its own."""
    device = tensor.device.type
    wide = tensor.dtype != torch.float32 or not _autocasts(device)
    return tensor.dtype if wide else torch.get_autocast_dtype(device)


def name_emulator(device: torch.device) -> str:
    """Name a device that only emulates bf16, which can take 20 times as long as fp32; "" for others.

    Others are GPUs that have it in hardware, and CPUs for which oneDNN has instructions.
    """
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
        return "" if fast else torch.cuda.get_device_name(device)
    fast = torch.backends.mkldnn.is_available() and torch.cpu._is_avx512_bf16_supported()
    return "" if device.type == "cpu" and fast else "a CPU without avx512_bf16"


def _map_tensors(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return change(value)
    if type(value) in (tuple, list):
        return type(value)(_map_tensors(v, change) for v in value)
    if type(value) is dict:
        return {k: _map_tensors(v, change) for k, v in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: _map_tensors(getattr(value, f.name), change) for f in fields(value)})
    return value


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for v in value:
            yield from _tensors(v)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))
    elif is_dataclass(value) and not isinstance(value, type):
        yield from _tensors([getattr(value, f.name) for f in fields(value)])


def _autocasts(device: str) -> bool:
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
