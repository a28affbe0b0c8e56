"""Means of gradients over ranks, in buckets that are exchanged while the backward pass still runs.

Buckets hold the same parameters in every step of every run, so that a resumed run adds the same numbers in
the same order. `DistributedDataParallel` forms its buckets anew, by order of arrival, after the first step
of each process, and needs every parameter to get a gradient on every rank.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

BUCKET = 25 * 2**20
"""Bytes that a bucket holds at most, unless a single parameter is larger."""


class _Bucket:
    """Numbers that are exchanged at once: one piece for each parameter, kept from step to step."""

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self._flat = torch.cat([torch.zeros_like(p).flatten() for p in parameters])
        pieces = self._flat.split([p.numel() for p in parameters])
        self._pieces = {p: piece.view_as(p) for p, piece in zip(parameters, pieces, strict=True)}
        self._missing: set[Tensor] = set()
        self._work: Any = None

    def arm(self) -> None:
        """Expect all gradients anew."""
        self._missing = set(self._pieces)

    @property
    def complete(self) -> bool:
        """True once every gradient has come."""
        return not self._missing

    def take(self, parameter: Tensor) -> None:
        """Move a gradient to its place, whose old one is freed; zeros where there is none."""
        self._missing.discard(parameter)
        piece = self._pieces[parameter]  # type: ignore[index]  # the hook passes the parameter itself
        if parameter.grad is None:
            piece.zero_()
        elif parameter.grad is not piece:
            piece.copy_(parameter.grad)
        parameter.grad = piece

    def send(self) -> None:
        """Begin to exchange; gradients that did not come in this pass are as earlier ones left them."""
        for parameter in tuple(self._missing):
            self.take(parameter)
        self._work = dist.all_reduce(self._flat, async_op=True)

    def wait(self) -> None:
        """Wait until the gradients are the sums, and let go of the exchange, which keeps threads of gloo."""
        if self._work is not None:
            self._work.wait()
            self._work = None


class GradientSums:
    """Sums the gradients of `parameters` over all ranks, bucket by bucket.

    The last parameters come first, as gradients arrive in that order. All ranks exchange the buckets in one
    order, each as soon as it and those before it are complete. A gradient that a rank does not have counts as
    zero. From its arrival in an armed pass on, each gradient is a view of its bucket.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], *, most: int = BUCKET) -> None:
        cuts = cut_into_buckets(parameters, most=most)
        self._buckets = [_Bucket(held) for held in cuts]
        self._place = {p: bucket for held, bucket in zip(cuts, self._buckets, strict=True) for p in held}
        self._armed, self._sent = False, 0
        for parameter in self._place:
            parameter.register_post_accumulate_grad_hook(self._arrive)

    def arm(self) -> None:
        """Exchange the gradients of the next backward pass."""
        self._armed, self._sent = True, 0
        for bucket in self._buckets:
            bucket.arm()

    def send_rest(self) -> None:
        """Exchange what is left once the backward pass is done: buckets with gradients that did not come."""
        while self._sent < len(self._buckets):
            self._send_next()

    def finish(self) -> None:
        """Wait until every gradient is the sum over the ranks."""
        self.send_rest()
        for bucket in self._buckets:
            bucket.wait()
        self._armed = False

    def _arrive(self, parameter: Tensor) -> None:
        if not self._armed:
            return
        self._place[parameter].take(parameter)  # type: ignore[index]  # the hook passes the parameter itself
        while self._sent < len(self._buckets) and self._buckets[self._sent].complete:
            self._send_next()

    def _send_next(self) -> None:
        self._buckets[self._sent].send()
        self._sent += 1


def fill_gradient(parameter: nn.Parameter) -> Tensor:
    """Return the gradient of `parameter`: zero, as DeepSpeed has it, where no backward pass reached it."""
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad


def cut_into_buckets(parameters: Iterable[nn.Parameter], *, most: int) -> list[list[nn.Parameter]]:
    """Group parameters, the last first, into buckets of `most` bytes."""
    buckets: list[list[nn.Parameter]] = []
    room = 0
    for parameter in reversed(list(parameters)):
        size = parameter.numel() * parameter.element_size()
        if not buckets or size > room:
            buckets.append([])
            room = most
        buckets[-1].append(parameter)
        room -= size
    return buckets
