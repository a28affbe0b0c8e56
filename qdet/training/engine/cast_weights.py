"""bf16 copies of all weights at once, where autocast would cast them one by one.

A detector has some hundred weights and biases that matrix products and convolutions read: autocast launches
a kernel for each in the forward pass and another for its gradient. Here all are cast in one call, and
gradients bucket by bucket. The numbers are autocast's, bit for bit.
"""

from collections.abc import Iterable, Mapping, Sequence, Set
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode

from qdet.training.engine.averaging import BUCKET, cut_into_buckets

TOGETHER = 4 * BUCKET
"""Bytes of weights whose gradients are cast together at most: ranks exchange them only then."""


class CastWeights:
    """Runs a module under autocast to bf16 with copies of its weights that were cast together.

    The first pass is autocast's own, and shows which weights it casts: those that are read in fp32, and those
    that a layer casts by itself, stay as they are.
    """

    def __init__(self, module: nn.Module, *, most: int = TOGETHER) -> None:
        self._module, self._most = module, most
        self._buckets: list[list[nn.Parameter]] | None = None
        self._names: Mapping[nn.Parameter, str] = {p: name for name, p in module.named_parameters()}

    def __call__(self, *inputs: Any) -> Any:
        """Run the module; the caller has turned autocast on."""
        if not torch.is_grad_enabled():
            return self._module(*inputs)
        if self._buckets is not None:
            return functional_call(self._module, self._cast(self._buckets), inputs)
        with _run_eagerly(self._module), _Watch(self._names) as watch:
            outputs = self._module(*inputs)
        self._buckets = self._sort(watch.cast)
        return outputs

    def _sort(self, cast: Set[Tensor]) -> list[list[nn.Parameter]]:
        """Return what is cast, bucket by bucket, and frozen weights in one of their own."""
        trained, frozen = (
            [p for p in self._names if p in cast and p.requires_grad is t] for t in (True, False)
        )
        return [*cut_into_buckets(trained, most=self._most), *([frozen] if frozen else [])]

    def _cast(self, buckets: Iterable[Sequence[nn.Parameter]]) -> dict[str, Tensor]:
        """Return the copies by the names of their parameters."""
        wide = [p for bucket in buckets for p in bucket]
        copies = _cast_all([p.detach() for p in wide], torch.bfloat16)
        found, rest = {}, iter(copies)
        for bucket in buckets:
            narrow = _UseCopies.apply([next(rest) for _ in bucket], *bucket)
            found |= {self._names[p]: copy for p, copy in zip(bucket, narrow, strict=True)}
        return found


def _run_eagerly(module: nn.Module) -> AbstractContextManager[Any]:
    """Keep a compiled module from running first under a mode, where torch gives up compiling it for good."""
    compiled = getattr(module, "_compiled_call_impl", None) is not None
    return torch.compiler.set_stance("force_eager") if compiled else nullcontext()


class _Watch(TorchDispatchMode):
    """Sees which parameters autocast casts."""

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        super().__init__()
        self._parameters, self.cast = set(parameters), set[Tensor]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # a layer that casts by itself does so inside of its own function, where no gradients are recorded
        if (
            func is torch.ops.aten._to_copy.default
            and torch.is_grad_enabled()
            and args[0] in self._parameters
        ):
            self.cast.add(args[0])
        return func(*args, **kwargs or {})


class _UseCopies(torch.autograd.Function):
    """Gives copies to the network in the place of parameters, and casts all their gradients back at once."""

    @staticmethod
    def forward(ctx: Any, copies: list[Tensor], *parameters: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        return tuple(copies)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        wide = iter(_cast_all([g for g in grads if g is not None], torch.float32))
        return None, *(None if g is None else next(wide) for g in grads)


def _cast_all(tensors: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """Cast in one call, each in its own layout."""
    copies = [torch.empty_like(t, dtype=dtype) for t in tensors]
    if copies:
        torch._foreach_copy_(copies, tensors)  # pyright: ignore[reportPrivateImportUsage]
    return copies
