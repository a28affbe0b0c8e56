"""What a model costs: its parameters, and the multiply-accumulates of one forward pass."""

from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode


def count_parameters(module: nn.Module, *, trainable: bool = False) -> int:
    """Count a module's parameters, shared ones once; with `trainable` only those that get a gradient."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not trainable)


def count_macs(module: nn.Module, *inputs: Any) -> int:
    """Count the multiply-accumulates of `module(*inputs)` in products and convolutions.

    Runs on the meta device: shapes only, no arithmetic, whatever the size. Bilinear sampling, norms and
    other elementwise work are not counted, as is usual.

    >>> count_macs(ResNetConfig(depth=50).build(), torch.empty(1, 3, 800, 1333))
    87333299200
    """
    state = {name: t.detach().to("meta") for name, t in (*module.named_parameters(), *module.named_buffers())}
    on_meta = tuple(value.to("meta") if isinstance(value, Tensor) else value for value in inputs)
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        functional_call(module, state, on_meta)
    return counter.get_total_flops() // 2


def count_saved_bytes(module: nn.Module, *inputs: Tensor, bf16: bool = False) -> int:
    """Count the bytes that a forward pass in training mode keeps for the backward pass.

    Tensors without numbers are used, whatever the size; the operations are those of a CPU. Each storage
    counts once, parameters, buffers and inputs not at all. The output and what an operation needs only while
    it runs come on top.

    Args:
        module: On any device; stays as it is but for its mode and device: it ends on fake tensors.
        inputs: Its arguments; only their shapes and types count.
        bf16: Under autocast to bfloat16.
    """
    kept: dict[int, tuple[torch.UntypedStorage, int]] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = (storage, storage.nbytes())  # held, so that no other takes its number
        return tensor

    with FakeTensorMode(allow_non_fake_inputs=True):
        module.to_empty(device="cpu").train()
        given = [torch.empty(one.shape, dtype=one.dtype, device="cpu") for one in inputs]
        own = [*module.parameters(), *module.buffers(), *given]
        with saved_tensors_hooks(keep, lambda tensor: tensor), torch.autocast("cpu", enabled=bf16):
            module(*given)
        left_out = {tensor.untyped_storage()._cdata for tensor in own}
    return sum(size for number, (_, size) in kept.items() if number not in left_out)
