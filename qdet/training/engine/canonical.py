"""Plain torch whose sums do not depend on the number of ranks (`--train.canonical`).

Every micro-batch has a fixed size and place in the global batch, and so has its gradient in the tree that
adds them up. Nothing is exchanged while a backward pass runs: this is slower, and equal bit for bit.
"""

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn

from qdet.job import OptimConfig, TrainConfig
from qdet.training.distributed import World
from qdet.training.engine.averaging import GradientSums, fill_gradient
from qdet.training.engine.plain import PlainEngine
from qdet.training.engine.tree_sum import TreeSum


class CanonicalEngine(PlainEngine):
    """A detector that every rank holds whole, and whose gradients are added over one fixed tree."""

    def __init__(self, module: nn.Module, train: TrainConfig, optim: OptimConfig, world: World) -> None:
        super().__init__(module, train, optim, world)
        self._tree = TreeSum(
            train.micro_batches, rank=world.rank, size=world.size, send=_send, receive=self._receive
        )
        self._sizes = [p.numel() for p in self._trained]

    def _build_sums(self) -> GradientSums | None:
        return None

    def _end_pass(self) -> None:
        self._tree.add(torch.cat([fill_gradient(p).flatten() for p in self._trained]))
        self._adamw.zero_grad()

    def _drop_sums(self) -> None:
        self._tree.clear()

    def _sum_gradients(self) -> None:
        total = self._tree.finish()
        if total is None:
            total = self._empty()
        if self.world.size > 1:
            dist.broadcast(total, 0)
        for parameter, piece in zip(self._trained, total.split(self._sizes), strict=True):
            parameter.grad = piece.view_as(parameter)

    def _receive(self, rank: int) -> Float[Tensor, " n"]:
        values = self._empty()
        dist.recv(values, rank)
        return values

    def _empty(self) -> Float[Tensor, " n"]:
        return torch.empty(sum(self._sizes), dtype=self._trained[0].dtype, device=self.world.device)


def _send(values: Float[Tensor, " n"], rank: int) -> None:
    dist.send(values, rank)
