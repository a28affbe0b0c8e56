"""Hooks on all modules of a detector that find the first non-finite number of a forward and backward pass."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass
class Layer:
    """What one module returned in one pass."""

    name: str
    kind: str
    """Its class."""
    low: float
    """Least of the finite numbers that it returned."""
    high: float
    """Greatest of them."""
    bad: float
    """Share of the numbers that were NaN or infinite."""
    finite_inputs: bool
    """Whether all its inputs were finite."""
    gradient: float | None = None
    """Greatest absolute gradient at its output; None if there was none."""


@dataclass(frozen=True)
class FirstBad:
    """The first place that was not finite."""

    what: str
    rows: tuple[int, ...] = ()
    """Images of the batch that were non-finite there; empty if that place does not separate images."""


class Watch:
    """Watches one pass of `module` over a batch of `images` images, inside a `with`."""

    def __init__(self, module: nn.Module, *, images: int) -> None:
        self.layers: list[Layer] = []
        self.first_bad: FirstBad | None = None
        self._module, self._images = module, images
        self._handles: list[Any] = []
        self._inputs_finite: list[bool] = []
        self._readers: dict[int, list[str]] = {}
        """Modules that took a tensor, by its id; inner modules come later."""
        self._kept: list[Tensor] = []
        """The tensors of those ids, kept alive so that no id is reused."""

    def __enter__(self) -> "Watch":
        for name, module in self._module.named_modules():
            self._handles += [
                module.register_forward_pre_hook(self._before(name), with_kwargs=True),
                module.register_forward_hook(self._after(name)),
            ]
        for name, parameter in self._module.named_parameters():
            if parameter.requires_grad:
                bad = f"the gradient of {name}"
                self._handles.append(parameter.register_hook(self._gradient(lambda bad=bad: bad)))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._kept.clear()

    def _before(self, name: str) -> Callable[..., None]:
        def before(_: nn.Module, args: Any, kwargs: Any) -> None:
            finite = True
            for tensor in tensors_in((args, kwargs)):
                finite = finite and bool(torch.isfinite(tensor).all())
                self._readers.setdefault(id(tensor), []).append(name)
                self._kept.append(tensor)
            self._inputs_finite.append(finite)

        return before

    def _after(self, name: str) -> Callable[..., None]:
        def after(module: nn.Module, _: Any, output: Any) -> None:
            found = list(tensors_in(output))
            layer = _layer(name, type(module).__name__, found, finite_inputs=self._inputs_finite.pop())
            self.layers.append(layer)
            if layer.bad and layer.finite_inputs and self.first_bad is None:
                self.first_bad = FirstBad(f"the output of {_called(layer)}", self._bad_rows(found))
            for tensor in found:
                if tensor.requires_grad:
                    tensor.register_hook(self._gradient(self._source(tensor, layer), layer))

        return after

    def _gradient(self, source: Callable[[], str], layer: Layer | None = None) -> Callable[[Tensor], None]:
        """Return a hook that notes the range of a gradient, and `source` of the first non-finite one."""

        def look(gradient: Tensor) -> None:
            if layer is not None:
                layer.gradient = (
                    max(layer.gradient or 0.0, float(gradient.abs().max())) if gradient.numel() else 0
                )
            if self.first_bad is None and not bool(torch.isfinite(gradient).all()):
                self.first_bad = FirstBad(source(), self._bad_rows([gradient]))

        return look

    def _source(self, tensor: Tensor, layer: Layer) -> Callable[[], str]:
        """Return a function that names what computed the gradient of `tensor`, the output of `layer`."""
        key = id(tensor)
        self._kept.append(tensor)

        def source() -> str:
            arrived = {seen.name: seen for seen in self.layers if seen.gradient is not None}
            for reader in reversed(self._readers.get(key, [])):
                seen = arrived.get(reader)
                if seen is not None and seen is not layer and _finite(seen.gradient):
                    return f"the gradient that comes out of {_called(seen)}"
            return f"the gradient that arrives at the output of {_called(layer)}"

        return source

    def _bad_rows(self, tensors: Sequence[Tensor]) -> tuple[int, ...]:
        for tensor in tensors:
            if tensor.dim() and len(tensor) == self._images:
                finite = (
                    torch.isfinite(tensor).flatten(1).all(1) if tensor.dim() > 1 else torch.isfinite(tensor)
                )
                if not finite.all():
                    return tuple((~finite).nonzero().flatten().tolist())
        return ()


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Yield the floating-point tensors in nested sequences, mappings and dataclasses."""
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from tensors_in(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from tensors_in(inner)
    elif is_dataclass(value) and not isinstance(value, type):
        for f in fields(value):
            yield from tensors_in(getattr(value, f.name))


def _layer(name: str, kind: str, tensors: Sequence[Tensor], *, finite_inputs: bool) -> Layer:
    flat = torch.cat([t.detach().float().flatten() for t in tensors]) if tensors else torch.empty(0)
    finite = flat[torch.isfinite(flat)]
    low, high = (float(finite.min()), float(finite.max())) if finite.numel() else (float("nan"), float("nan"))
    bad = 1 - finite.numel() / flat.numel() if flat.numel() else 0.0
    return Layer(name, kind, low, high, bad, finite_inputs)


def _called(layer: Layer) -> str:
    return f"{layer.name or 'the detector'} ({layer.kind})"


def _finite(value: float | None) -> bool:
    return value is not None and value < float("inf")
