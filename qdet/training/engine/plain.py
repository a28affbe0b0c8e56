"""Plain torch: every rank holds all of weights and optimizer, and one fused AdamW updates them.

For one rank, and for ZeRO-0. Nothing here waits for the device: clipping, and skipping a step whose
gradient is not finite, happen inside AdamW's fused kernel, which takes a divisor of the gradients and a
flag to change nothing.
"""

from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from qdet.job import OptimConfig, TrainConfig
from qdet.training.distributed import World
from qdet.training.engine.averaging import GradientSums, fill_gradient
from qdet.training.engine.cast_weights import CastWeights
from qdet.training.engine.engine import Engine
from qdet.training.engine.sharded_state import ShardedState
from qdet.training.freeze import find_frozen
from qdet.training.optim import build_optimizer
from qdet.types import ExtraQueries


class PlainEngine(Engine):
    """A detector that every rank holds whole."""

    def __init__(self, module: nn.Module, train: TrainConfig, optim: OptimConfig, world: World) -> None:
        self.module, self.world = module.to(world.device), world
        self._clip_norm, self._passes, self._pass = optim.clip_norm, train.passes(world.size), 0
        self.loss_divisor = self._passes * world.size
        self._bf16 = train.precision == "bf16"
        self._run: Callable[..., Any] = self.module
        if self._bf16 and casts_together(world.device):
            self._run = CastWeights(self.module)
        self._adamw = build_optimizer(module, optim, find_frozen(module, train.freeze))
        self._trained = [p for group in self._adamw.param_groups for p in group["params"]]
        if world.size > 1:
            send_from_main(chain(module.parameters(), module.buffers()))
        self._sums = self._build_sums()
        self.state = ShardedState(module, self._adamw, stage=0, world=world)

    def __call__(self, *inputs: Tensor | ExtraQueries) -> Any:
        """Run the detector in the job's precision."""
        with torch.autocast(self.world.device.type, torch.bfloat16, enabled=self._bf16):
            return self._run(*inputs)

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of one micro-batch; `step` takes the mean over ranks and micro-batches."""
        if self._sums is not None and self._pass == self._passes - 1:
            self._sums.arm()
        (loss / self.loss_divisor).backward()
        if self._sums is not None and self._pass == self._passes - 1:
            self._sums.send_rest()

    def step(self, lr_factor: float) -> Tensor | None:
        """End a micro-batch; after the last of a step, update the weights and return the gradient's norm."""
        self._pass = (self._pass + 1) % self._passes
        self._end_pass()
        if self._pass:
            return None
        self._sum_gradients()
        grads = [fill_gradient(p) for p in self._trained]
        norm = torch.nn.utils.get_total_norm(grads, foreach=True)
        if self._clip_norm:
            self._adamw.grad_scale = ((norm + 1e-6) / self._clip_norm).clamp_(min=1)
        self._adamw.found_inf = norm.isfinite().logical_not_().float()
        for group in self._adamw.param_groups:
            group["lr"] = group["base_lr"] * lr_factor
        self._adamw.step()
        self._adamw.zero_grad()
        return norm

    def discard(self) -> None:
        """Forget the gradients of a step whose last backward pass is done."""
        self._pass = 0
        self._drop_sums()
        self._adamw.zero_grad()

    def _build_sums(self) -> GradientSums | None:
        """Return what sums gradients over the ranks while the last backward pass runs."""
        return GradientSums(self._trained) if self.world.size > 1 else None

    def _end_pass(self) -> None:
        """Take the gradients of one micro-batch: here they add up in the parameters."""

    def _drop_sums(self) -> None:
        """Forget what was exchanged."""
        if self._sums is not None:
            self._sums.finish()

    def _sum_gradients(self) -> None:
        """Make the gradients those of all ranks (collective)."""
        if self._sums is not None:
            self._sums.finish()


def casts_together(device: torch.device) -> bool:
    """Whether weights are cast in one call: a GPU gets fewer launches, and a CPU would gain nothing."""
    return device.type == "cuda"


def send_from_main(tensors: Iterable[Tensor]) -> None:
    """Make tensors equal those of rank 0 (collective)."""
    for tensor in tensors:
        dist.broadcast(tensor.detach(), src=0)
